// Looks at the page as it stands and gives a list of problems: names, labels, ids, headings, contrast.
() => {
  const problems = [];
  const isVisible = (element) => element.checkVisibility({ visibilityProperty: true });
  const described = (element) =>
    `${element.tagName.toLowerCase()}${element.id ? `#${element.id}` : ""}.${element.getAttribute("class") ?? ""}`;
  const byIds = (ids) =>
    (ids ?? "")
      .split(/\s+/)
      .filter(Boolean)
      .map((id) => document.getElementById(id));
  const nameOf = (element) =>
    element.getAttribute("aria-label") ||
    byIds(element.getAttribute("aria-labelledby"))
      .map((each) => each?.textContent)
      .join(" ")
      .trim() ||
    [...(element.labels ?? [])]
      .map((each) => each.textContent)
      .join(" ")
      .trim() ||
    element.textContent.trim() ||
    element.getAttribute("title") ||
    [...element.querySelectorAll("img[alt]")].map((each) => each.alt).join("");

  for (const input of document.querySelectorAll("input, select, textarea")) {
    if (
      isVisible(input) &&
      !input.labels?.length &&
      !input.getAttribute("aria-label") &&
      !input.getAttribute("aria-labelledby")
    )
      problems.push(`${described(input)} has no label`);
  }
  for (const control of document.querySelectorAll(
    "button, a[href], summary, [role=tab], [role=tabpanel], [role=img], section, dialog, [role=tablist], nav",
  )) {
    if (isVisible(control) && !nameOf(control)) problems.push(`${described(control)} has no name`);
  }
  for (const image of document.querySelectorAll("img:not([alt])")) problems.push(`${described(image)} has no alt`);
  for (const element of document.querySelectorAll(
    "[aria-controls], [aria-labelledby], [aria-describedby], label[for]",
  )) {
    for (const attribute of ["aria-controls", "aria-labelledby", "aria-describedby", "for"]) {
      if (byIds(element.getAttribute(attribute)).some((each) => each === null))
        problems.push(`${described(element)}: ${attribute} leads nowhere`);
    }
  }
  const ids = [...document.querySelectorAll("[id]")].map((each) => each.id);
  for (const id of new Set(ids.filter((each, at) => ids.indexOf(each) !== at)))
    problems.push(`two elements have the id ${id}`);
  if (document.querySelectorAll("h1").length !== 1) problems.push("there is not exactly one h1");
  let level = 1;
  for (const heading of document.querySelectorAll("main h1, main h2, main h3, main h4")) {
    const own = Number(heading.tagName[1]);
    if (own > level + 1) problems.push(`${described(heading)} skips a level`);
    level = own;
  }
  for (const table of document.querySelectorAll("table")) {
    if (!table.caption) problems.push(`${described(table)} has no caption`);
    if ([...table.querySelectorAll("th")].some((each) => !each.scope))
      problems.push(`${described(table)} has a th without scope`);
  }
  if (!document.documentElement.lang) problems.push("the page has no language");
  for (const positive of document.querySelectorAll("[tabindex]")) {
    if (Number(positive.getAttribute("tabindex")) > 0) problems.push(`${described(positive)} has a positive tabindex`);
  }

  // Contrast as WCAG 2 has it: 4.5 for text, 3 for large or bold large text.
  const colour = (text) => (text.match(/[\d.]+/g) ?? []).map(Number);
  const share = (value) => (value / 255 <= 0.03928 ? value / 255 / 12.92 : ((value / 255 + 0.055) / 1.055) ** 2.4);
  const luminance = ([r, g, b]) => 0.2126 * share(r) + 0.7152 * share(g) + 0.0722 * share(b);
  const contrast = (one, other) => {
    const [low, high] = [luminance(one), luminance(other)].sort((a, b) => a - b);
    return (high + 0.05) / (low + 0.05);
  };
  const ground = (element) => {
    for (let at = element; at; at = at.parentElement) {
      if (at instanceof SVGElement) {
        const shape = at.tagName === "g" ? at.querySelector("rect, polygon") : null;
        const fill = shape && colour(getComputedStyle(shape).fill);
        if (fill?.length >= 3 && fill[3] !== 0) return fill;
        continue;
      }
      const found = colour(getComputedStyle(at).backgroundColor);
      if (found.length >= 3 && found[3] !== 0) return found;
    }
    return [255, 255, 255];
  };
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  const seen = new Set();
  for (let node = walker.nextNode(); node; node = walker.nextNode()) {
    const element = node.parentElement;
    if (
      !node.data.trim() ||
      seen.has(element) ||
      !isVisible(element) ||
      ["SCRIPT", "STYLE", "NOSCRIPT", "TITLE", "title", "OPTION"].includes(element.tagName)
    )
      continue;
    seen.add(element);
    if (element.closest(":disabled, .unseen")) continue;
    const style = getComputedStyle(element);
    const ink = colour(element instanceof SVGElement ? style.fill : style.color);
    const size = parseFloat(style.fontSize);
    const isLarge = size >= 24 || (size >= 18.66 && Number(style.fontWeight) >= 700);
    const ratio = contrast(ink, ground(element));
    if (ratio < (isLarge ? 3 : 4.5))
      problems.push(`${described(element)} "${node.data.trim().slice(0, 30)}" has a contrast of ${ratio.toFixed(2)}`);
  }
  return problems;
};
