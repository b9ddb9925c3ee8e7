// What is shown of a run: head, questions, outcome, graph, events, timeline, steps, state.

import { fill, h, panel, tracebackBox } from "./dom.js";
import { eventList } from "./event_list.js";
import { badge, bytes, count, duration, short, shownStatus, timeAgo } from "./format.js";
import { graphView, stepWords } from "./graph.js";
import { jsonText, shownValue } from "./json_view.js";
import { liveSteps } from "./live_steps.js";
import { questionCard, sendPanel } from "./question.js";
import { tabs } from "./tabs.js";
import { timelineView } from "./timeline.js";

/**
 * Everything below the heading.
 *
 * @param {Run} first the run as it was first read
 * @param {Graph} graphData
 * @param {{act: (what: "retry" | "cancel") => Promise<void>, sent: () => void}} actions `sent` is called after an event
 *   was sent
 */
export function runParts(first, graphData, { act, sent }) {
  const skew = first.now - Date.now();
  const facts = h("dl", { class: "facts run-facts" });
  const actions = h("div", { class: "actions" });
  const problem = h("p", { class: "field-error", role: "alert" });
  const questions = h("div", { class: "questions", "aria-live": "polite" });
  const outcome = h("div", { class: "outcome" });
  const graph = graphView(graphData);
  const events = eventList();
  const timeline = timelineView();
  const state = h("div");
  const steps = h("div");
  const link = h("span", { class: "connection" });
  const took = h("dd", { class: "figure" });
  /** @type {Map<string, HTMLElement>} */
  const cards = new Map();
  const live = liveSteps(graph);
  /** @type {HTMLElement | null} */
  let send = null;
  let shownOutcome = "";
  let shownState = "";

  const pages = tabs("Run details", [
    ["Events", h("div", {}, events.element)],
    ["Timeline", timeline.element],
    ["Steps", steps],
    ["State", state],
  ]);
  const side = h("div", { class: "column" }, questions, outcome, panel("Graph", graph.element));
  const element = h(
    "div",
    {},
    h("div", { class: "run-head" }, facts, h("div", { class: "run-side" }, actions, link)),
    problem,
    h("div", { class: "columns run-columns" }, side, h("div", { class: "column" }, pages.element)),
  );

  /** @param {string} label @param {"retry" | "cancel"} what @param {boolean} isMain @param {string} [ask] to confirm */
  function button(label, what, isMain, ask) {
    return h(
      "button",
      {
        type: "button",
        class: isMain ? "primary" : "",
        onclick: async (event) => {
          if (ask && !confirm(ask)) return;
          event.target.disabled = true;
          problem.textContent = "";
          try {
            await act(what);
          } catch (error) {
            problem.textContent = error.message;
            event.target.disabled = false;
          }
        },
      },
      label,
    );
  }

  /** @param {Run} run */
  function showHead(run) {
    const served = run.route
      ? h("a", { href: `#/workflows/${encodeURIComponent(run.route)}` }, run.route)
      : h("span", { title: "Not served by this server" }, short(run.workflow));
    /** @type {[string, any][]} */
    const rows = [
      ["Status", badge(shownStatus(run))],
      ["Workflow", served],
      ["Started", timeAgo(run.created_at - skew)],
      ["Duration", took],
    ];
    if (run.parent) {
      const address = `#/runs/${encodeURIComponent(run.parent)}`;
      rows.push(["Parent run", h("a", { href: address, class: "id" }, run.parent)]);
    }
    fill(
      facts,
      rows.map(([name, value]) => h("div", {}, h("dt", {}, name), value === took ? took : h("dd", {}, value))),
    );
    const isRunning = run.status === "running";
    if (actions.dataset.status !== run.status) {
      actions.dataset.status = run.status;
      const retry = ["failed", "timed_out", "cancelled"].includes(run.status) ? button("Retry", "retry", true) : null;
      fill(
        actions,
        isRunning ? button("Cancel", "cancel", false, "Cancel this run? Running steps will be interrupted.") : retry,
      );
    }
    tick(run);
  }

  /** @param {Run} run */
  function tick(run) {
    const end = run.ended_at ?? Date.now() + skew;
    took.textContent = duration(end - run.created_at);
    const started = facts.querySelector("time");
    if (started) started.textContent = timeAgo(run.created_at - skew).textContent;
  }

  /** A card is made once, so that what the user has typed stays. @param {Run} run */
  function showQuestions(run) {
    const open = new Map(run.questions.map((question) => [question.id, question]));
    for (const [id, card] of cards) {
      if (!open.has(id)) {
        card.remove();
        cards.delete(id);
      }
    }
    for (const [id, question] of open) {
      if (cards.has(id)) continue;
      const card = questionCard(run, question, sent);
      cards.set(id, card);
      questions.append(card);
    }
  }

  /** @param {Run} run */
  function showOutcome(run) {
    const text = jsonText([run.status, run.result, run.error, run.trouble]);
    if (text === shownOutcome) return;
    shownOutcome = text;
    const shown = [];
    if (run.trouble) shown.push(h("p", { class: "warning" }, h("span", { "aria-hidden": "true" }, "⚠ "), run.trouble));
    if (run.result)
      shown.push(
        panel(
          "Result",
          run.result.event ? h("p", { class: "muted" }, h("code", {}, run.result.event)) : null,
          shownValue(run.result, 3),
        ),
      );
    if (run.error)
      shown.push(
        h(
          "section",
          { class: "panel failure", "aria-label": "Error" },
          h("h2", {}, run.status === "cancelled" ? "Cancelled" : "Error"),
          h("p", { class: "error-text" }, run.error),
          run.traceback ? tracebackBox(run.traceback) : null,
        ),
      );
    fill(outcome, shown);
  }

  /** @param {Run} run */
  function showState(run) {
    const text = jsonText([run.state, run.state_left_out, run.began_with]);
    if (text === shownState) return;
    shownState = text;
    const began = run.began_with;
    const rows = run.state.map((each) =>
      h(
        "div",
        {},
        h("dt", {}, each.key, h("span", { class: "kind" }, bytes(each.size))),
        h("dd", {}, shownValue(each, 2)),
      ),
    );
    fill(
      state,
      began
        ? h(
            "section",
            { class: "part", "aria-label": "Started with" },
            h("h3", {}, "Started with ", h("code", {}, began.type)),
            shownValue(began, 3),
          )
        : null,
      h(
        "section",
        { class: "part", "aria-label": "ctx.store" },
        h("h3", {}, h("code", {}, "ctx.store")),
        rows.length ? h("dl", { class: "state" }, rows) : h("p", { class: "muted" }, "Empty."),
      ),
      run.state_left_out ? h("p", { class: "muted" }, `${count(run.state_left_out, "more key")} not shown.`) : null,
    );
  }

  /** @param {Run} run */
  function showSteps(run) {
    const columns = ["queued", "ready", "running", "retrying", "waiting", "parked", "failed", "done", "failures"];
    const used = columns.filter(
      (each) => ["running", "done"].includes(each) || run.steps.some((step) => step[each] > 0),
    );
    const table = h(
      "table",
      {},
      h("caption", { class: "unseen" }, "Steps"),
      h(
        "thead",
        {},
        h(
          "tr",
          {},
          h("th", { scope: "col" }, "Step"),
          h("th", { scope: "col" }, "Now"),
          used.map((each) => h("th", { scope: "col", class: "figure" }, each)),
        ),
      ),
      h(
        "tbody",
        {},
        run.steps.map((step) =>
          h(
            "tr",
            {},
            h("th", { scope: "row" }, step.name),
            h("td", {}, stepWords(step)[0]?.[2] ?? "–"),
            used.map((each) => h("td", { class: "figure" }, step[each].toLocaleString("en"))),
          ),
        ),
      ),
    );
    fill(
      steps,
      h("div", { class: "table-scroll" }, table),
      run.is_partial ? h("p", { class: "muted" }, "This run is large: the counts cover only its latest part.") : null,
    );
  }

  /** @param {Run} run */
  function showSend(run) {
    const isWanted = run.status === "running" && run.sendable.length > 0;
    if (isWanted && send === null) {
      send = sendPanel(run, sent);
      side.append(send);
    } else if (!isWanted && send !== null) {
      send.remove();
      send = null;
    }
  }

  return {
    element,
    tick,
    /** @param {Run} run */
    show(run) {
      showHead(run);
      showQuestions(run);
      showOutcome(run);
      live.settle(run);
      timeline.show(run);
      showSteps(run);
      showState(run);
      showSend(run);
    },
    /** @param {number} sequence @param {Envelope} envelope @param {Run} run */
    event(sequence, envelope, run) {
      events.add(sequence, envelope);
      if (sequence > run.head) live.event(envelope);
    },
    /** @param {string} now @param {string} [why] it was refused */
    connection(now, why) {
      /** @type {Record<string, string | undefined>} */
      const words = { live: "live", waiting: "reconnecting …", ended: "ended", paused: "paused", refused: why };
      link.dataset.state = now;
      link.textContent = words[now] ?? "";
    },
  };
}
