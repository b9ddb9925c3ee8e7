// One execution, opened from a bar, a box or a row: what it was given, what came of it, what it wrote.

import { errorBox, fill, h, tracebackBox } from "./dom.js";
import { openDialog } from "./dialogs.js";
import { bytes, clock, count, duration, instant, workerName } from "./format.js";
import { get } from "./http.js";
import { gist, shownValue } from "./json_view.js";
import { logLines } from "./log_view.js";
import { outcomeWords } from "./timeline.js";

/** Places that are no work items. @type {Record<string, string>} */
const PLACES = { start: "the start of the run", outside: "outside the run", stop: "the end of the run" };
/** Executions of a step that are listed. */
const LISTED = 200;

/**
 * Opens work items of a run, one after the other, in one drawer.
 *
 * @param {string} path of the run's data
 * @param {() => Run | null} current the run as it was read last
 * @param {(workId: string) => void} onShow called with the work item that is shown; empty when the drawer closes
 * @param {(workId: string) => void} forkBefore shows the run as it was before a work item, to fork it there
 */
export function workDrawer(path, current, onShow, forkBefore) {
  /** @type {HTMLDialogElement | null} */
  let dialog = null;
  const heading = h("h2", { tabindex: "-1" });
  const place = h("div", { class: "drawer-content" });

  function opened() {
    if (dialog?.open) return;
    dialog = openDialog("Execution", "drawer", (close) => [
      h(
        "div",
        { class: "drawer-head" },
        heading,
        h("button", { type: "button", class: "quiet", "aria-label": "Close", onclick: close }, "✕"),
      ),
      place,
    ]);
    dialog.addEventListener("close", () => onShow(""));
  }

  /** @param {string} workId */
  async function open(workId) {
    opened();
    onShow(workId);
    heading.textContent = stepOf(current(), workId);
    fill(place, h("p", { class: "loading" }, "Loading …"));
    heading.focus();
    const itemPath = `${path}/work/${encodeURIComponent(workId)}`;
    try {
      const work = await get(itemPath);
      const run = current();
      if (run) fill(place, shown(run, work, `${itemPath}/read`, open), goBack(workId));
    } catch (error) {
      fill(
        place,
        errorBox(error, () => open(workId)),
      );
    }
  }

  /** @param {string} workId */
  function goBack(workId) {
    const go = () => {
      dialog?.close();
      forkBefore(workId);
    };
    return h("p", { class: "actions" }, h("button", { type: "button", onclick: go }, "Fork before this step"));
  }

  /** The executions of one step; of the only one, that one. @param {string} step */
  function openStep(step) {
    const bars = (current()?.timeline ?? []).filter((bar) => bar.step === step);
    const items = [...new Set(bars.map((bar) => bar.work_id))];
    if (items.length === 1) {
      open(items[0]);
      return;
    }
    opened();
    heading.textContent = step;
    fill(
      place,
      items.length
        ? h("p", { class: "muted" }, `${count(items.length, "execution")}, the latest first`)
        : h("p", { class: "muted" }, "It has not been executed."),
      h(
        "ul",
        { class: "work-list" },
        items
          .reverse()
          .slice(0, LISTED)
          .map((item) =>
            h(
              "li",
              {},
              listed(bars.filter((bar) => bar.work_id === item).at(-1), () => open(item)),
            ),
          ),
      ),
    );
    heading.focus();
  }

  return { open, openStep };
}

/** @param {Bar | undefined} bar @param {() => void} open */
function listed(bar, open) {
  if (!bar) return null;
  const [sign, words] = outcomeWords(bar.outcome);
  return h(
    "button",
    { type: "button", class: "link", onclick: open },
    `${sign} ${words}${bar.attempt > 1 ? `, attempt ${bar.attempt}` : ""}`,
    bar.ended_at === null ? "" : ` · ${duration(bar.ended_at - bar.started_at)}`,
    bar.error ? ` · ${gist(bar.error, 80)}` : "",
  );
}

/** @param {Run | null} run @param {string} workId */
function stepOf(run, workId) {
  return run?.timeline.find((bar) => bar.work_id === workId)?.step ?? "Execution";
}

/** @param {Run} run @param {WorkDetail} work @param {string} readPath @param {(workId: string) => void} open */
function shown(run, work, readPath, open) {
  // What is running is not in the journal yet.
  const active = run.timeline.filter((bar) => bar.work_id === work.work_id && bar.outcome === "running");
  const attempts = [...work.executions, ...active];
  const first = attempts[0];
  const wait = first && work.ready_at ? first.started_at - work.ready_at : null;
  return [
    h(
      "dl",
      { class: "facts" },
      fact("Attempts", String(attempts.length)),
      wait !== null && wait >= 0 ? fact("Waited for a worker", duration(wait)) : null,
      first ? fact("Began", h("time", { title: instant(first.started_at) }, clock(first.started_at))) : null,
      fact("Work item", h("code", { class: "id" }, work.work_id)),
    ),
    part(
      "Attempts",
      attempts.length
        ? h(
            "ol",
            { class: "attempts" },
            attempts.map((each) => attempt(each, run)),
          )
        : none(),
    ),
    part(
      "Given",
      work.given.length
        ? work.given.map((each) => passed(each, "from", open))
        : none("The journal does not have its event."),
    ),
    work.log.lines.length ? part("Logged", logLines(work.log, null)) : null,
    part("Emitted", work.emitted.length ? work.emitted.map((each) => passed(each, "to", open)) : none()),
    part(h("span", {}, "Read from ", h("code", {}, "ctx.store")), readPart(work.read, readPath)),
    part(
      h("span", {}, "Written to ", h("code", {}, "ctx.store")),
      work.writes.length
        ? work.writes.map((write) =>
            h(
              "div",
              { class: "write" },
              h("p", { class: "muted" }, `version ${write.version}, ${clock(write.at)}`),
              write.values.map(keyAndValue),
              write.deleted.length ? h("p", {}, `deleted: ${write.deleted.join(", ")}`) : null,
            ),
          )
        : none(),
    ),
    work.left_out
      ? h("p", { class: "muted" }, `${count(work.left_out, "more entry", "more entries")} not shown.`)
      : null,
  ];
}

/** @param {Shown & {key: string}} value */
function keyAndValue(value) {
  return h("div", {}, h("code", { class: "state-key" }, value.key), shownValue(value, 1));
}

/**
 * What the last attempt has read. The values come later: for them, a point of the run's past is rebuilt.
 *
 * @param {WorkDetail["read"]} read
 * @param {string} path of the values
 */
function readPart(read, path) {
  if (!read) return none("The journal does not say.");
  if (read.keys?.length === 0) return none();
  const values = h("div", { class: "read" }, h("p", {}, read.keys?.join(", ") ?? "all keys"));
  get(path).then(
    (/** @type {StateRead} */ found) =>
      fill(
        values,
        found.values.map(keyAndValue),
        found.unset.length ? h("p", {}, `not set: ${found.unset.join(", ")}`) : null,
        found.left_out ? h("p", { class: "muted" }, `${count(found.left_out, "more key")} not shown.`) : null,
      ),
    (error) => values.append(none(error.message)),
  );
  return [
    h(
      "p",
      { class: "muted" },
      `${read.keys ? "values" : "all keys, with their values"} when attempt ${read.attempt} began`,
    ),
    values,
  ];
}

/** @param {string} name @param {any} value */
function fact(name, value) {
  return h("div", {}, h("dt", {}, name), h("dd", {}, value));
}

/** @param {any} title @param {...any} content */
function part(title, ...content) {
  return h("section", { class: "part" }, h("h3", {}, title), ...content);
}

function none(text = "Nothing.") {
  return h("p", { class: "muted" }, text);
}

/** @param {Bar} bar @param {Run} run */
function attempt(bar, run) {
  const [sign, words] = outcomeWords(bar.outcome);
  return h(
    "li",
    { class: `attempt ${bar.outcome}` },
    h(
      "p",
      {},
      h("strong", {}, `${sign} ${words}`),
      h(
        "span",
        { class: "muted" },
        ` · attempt ${bar.attempt} · ${duration((bar.ended_at ?? run.now) - bar.started_at)} · `,
      ),
      h("span", { class: "muted", title: `${bar.worker} ${bar.process}` }, workerName(bar.worker)),
      bar.task_url
        ? [" · ", h("a", { href: bar.task_url, target: "_blank", rel: "noreferrer noopener" }, "Task in Flower")]
        : null,
    ),
    bar.error ? h("p", { class: "error-text" }, bar.error) : null,
    bar.traceback ? tracebackBox(bar.traceback) : null,
  );
}

/** @param {PassedEvent} each @param {"from" | "to"} way @param {(workId: string) => void} open */
function passed(each, way, open) {
  const groups = new Map();
  for (const link of each.links)
    groups.set(link.step || link.work_id, [...(groups.get(link.step || link.work_id) ?? []), link]);
  return h(
    "div",
    { class: "passed" },
    h(
      "p",
      {},
      h("span", { class: "event-type" }, each.type),
      each.is_published ? h("span", { class: "muted" }, " · to the stream") : null,
      [...groups].map(([name, links]) => [h("span", { class: "muted" }, ` · ${way} `), linked(name, links, open)]),
    ),
    each.event
      ? each.event.why_not
        ? h("p", { class: "muted" }, `${bytes(each.event.size ?? 0)}, ${each.event.why_not}.`)
        : shownValue(each.event, each.type.startsWith("Workflow") ? 1 : 2)
      : h("p", { class: "muted" }, "Its fields are not in the journal."),
  );
}

/** @param {string} name @param {{work_id: string, step: string}[]} links @param {(workId: string) => void} open */
function linked(name, links, open) {
  if (!links[0].step) return h("span", { class: "muted" }, PLACES[name] ?? "an execution");
  const words = links.length > 1 ? `${name} ×${links.length}` : name;
  return h("button", { type: "button", class: "link", onclick: () => open(links[0].work_id) }, words);
}
