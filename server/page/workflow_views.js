// The list of served workflows; and one of them, with a form that starts a run.

import { textField } from "./chat_view.js";
import { columnHeading, table } from "./data_table.js";
import { blank, errorBox, fill, h, panel } from "./dom.js";
import { count } from "./format.js";
import { graphView } from "./graph.js";
import { get, post } from "./http.js";
import { schemaForm } from "./schema_form.js";

/** All served workflows. @param {AbortSignal} signal */
export function workflowListView(signal) {
  const place = h("div", { "aria-busy": "true" }, h("p", { class: "loading" }, "Loading …"));
  const load = async () => {
    try {
      const { workflows } = await get("console/workflows", signal);
      if (workflows.length === 0) {
        fill(
          place,
          blank("No workflows are served.", "Serve some: umbel serve module:Workflow, or server.add_workflow(…)."),
        );
      } else {
        fill(place, h("ul", { class: "cards" }, workflows.map(card)));
      }
    } catch (error) {
      if (!signal.aborted) fill(place, errorBox(error, load));
    }
    place.removeAttribute("aria-busy");
  };
  load();
  return { element: h("div", { class: "view" }, h("h1", { tabindex: "-1" }, "Workflows"), place), title: "Workflows" };
}

/** @param {ServedWorkflow} workflow */
function card(workflow) {
  return h(
    "li",
    { class: "card" },
    h("h2", {}, h("a", { href: `#/workflows/${encodeURIComponent(workflow.name)}` }, workflow.name)),
    h("p", {}, workflow.description || h("span", { class: "muted" }, "No description.")),
    h("p", { class: "muted" }, `${count(workflow.steps, "step")} · ${workflow.workflow_name}`),
    workflow.trouble
      ? h("p", { class: "warning" }, h("span", { "aria-hidden": "true" }, "⚠ "), workflow.trouble)
      : null,
  );
}

/**
 * One workflow.
 *
 * @param {string} name
 * @param {URLSearchParams} query `like` names a run whose input fills the form
 * @param {AbortSignal} signal
 */
export function workflowView(name, query, signal) {
  const place = h("div", { "aria-busy": "true" }, h("p", { class: "loading" }, "Loading …"));
  const load = async () => {
    try {
      const workflow = await get(`console/workflows/${encodeURIComponent(name)}`, signal);
      const like = query.get("like");
      const model = like ? await get(`console/runs/${encodeURIComponent(like)}`, signal) : null;
      fill(place, shown(workflow, model?.began_with?.value ?? {}));
    } catch (error) {
      if (!signal.aborted) fill(place, errorBox(error, error.status === 404 ? null : load));
    }
    place.removeAttribute("aria-busy");
  };
  load();
  const above = h("p", { class: "crumbs" }, h("a", { href: "#/workflows" }, "Workflows"), " / ");
  return { element: h("div", { class: "view" }, above, h("h1", { tabindex: "-1" }, name), place), title: name };
}

/** @param {ServedWorkflow} workflow @param {Record<string, any>} values to begin with */
function shown(workflow, values) {
  const form = schemaForm({
    schema: workflow.start.schema,
    values,
    action: "Start a run",
    submit: async (fields) => {
      const body = { start_event: { type: workflow.start.type, value: fields } };
      const run = await post(`workflows/${encodeURIComponent(workflow.name)}/run-nowait`, body);
      location.hash = `#/runs/${encodeURIComponent(run.run_id)}`;
    },
  });
  const about = workflow.start.schema?.description;
  const graph = graphView(workflow.graph);
  graph.show(new Map(), "");
  return [
    workflow.description ? h("p", { class: "lead" }, workflow.description) : null,
    workflow.trouble
      ? h("p", { class: "warning", role: "note" }, h("span", { "aria-hidden": "true" }, "⚠ "), workflow.trouble)
      : null,
    h(
      "div",
      { class: "columns form-and-graph" },
      panel("Start", h("p", { class: "muted" }, h("code", {}, workflow.start.type), about ? ` – ${about}` : ""), form),
      h("div", { class: "column" }, panel("Graph", graph.element), panel("Steps", steps(workflow.graph))),
    ),
    textField(workflow.start.schema)
      ? h("p", {}, h("a", { href: `#/chat/${encodeURIComponent(workflow.name)}`, class: "button" }, "Chat"))
      : null,
    h("p", {}, h("a", { href: `#/runs?workflow=${encodeURIComponent(workflow.name)}` }, `Runs of ${workflow.name}`)),
  ];
}

/** @param {Graph} graph */
function steps(graph) {
  return table(
    "Steps",
    graph.headings.map((each) => columnHeading(each)),
    graph.rows.map(([first, ...others]) =>
      h(
        "tr",
        {},
        h("th", { scope: "row" }, first),
        others.map((cell) => h("td", {}, cell)),
      ),
    ),
  );
}
