// What is shown of a run: head, questions, outcome, graph, events, timeline, steps, state.

import { h, panel } from "./dom.js";
import { eventList } from "./event_list.js";
import { count } from "./format.js";
import { graphView, stepsInOrder } from "./graph.js";
import { historyView } from "./history_view.js";
import { liveSteps } from "./live_steps.js";
import { logView } from "./log_view.js";
import { patch } from "./patch.js";
import { questionCard, sendPanel } from "./question.js";
import { runHead } from "./run_head.js";
import { runOutcome } from "./run_outcome.js";
import { runTable } from "./run_table.js";
import { stateView } from "./state_view.js";
import { stepTable } from "./step_table.js";
import { tabs } from "./tabs.js";
import { timelineView } from "./timeline.js";
import { unrolled } from "./unrolled.js";

/** Place of the tab. */
const HISTORY = 6;

/**
 * Everything below the heading.
 *
 * @param {Run} first the run as it was first read
 * @param {Graph} graphData
 * @param {string} path of the run's data
 * @param {{act: (what: "retry" | "cancel") => Promise<void>, sent: () => void}} actions `sent` is called after an event
 *   was sent
 * @param {{open: (workId: string) => void, openStep: (step: string) => void}} drawer
 */
export function runParts(first, graphData, path, { act, sent }, drawer) {
  const order = stepsInOrder(graphData);
  const head = runHead(first, act);
  const questions = h("div", { class: "questions", "aria-live": "polite" });
  const outcome = runOutcome(drawer.openStep, forkBefore);
  const graph = graphView(graphData, (step) => drawer.openStep(step));
  const events = eventList();
  const timeline = timelineView(order, drawer.open);
  const steps = stepTable(order, drawer.openStep);
  const state = stateView();
  const log = logView(path, drawer.open);
  const children = h("div");
  let isPast = false;
  const past = historyView(
    path,
    first.run_id,
    (counts) => {
      isPast = counts !== null;
      if (counts) graph.show(counts, "");
      else live.settle(run);
    },
    sent,
  );
  const whole = unrolled(path, drawer.open);
  const live = liveSteps(graph);
  /** @type {Map<string, HTMLElement>} */
  const cards = new Map();
  /** @type {HTMLElement | null} */
  let send = null;
  /** @type {Run} */
  let run = first;

  const pages = tabs(
    "Run details",
    [
      ["Events", events.element],
      ["Timeline", timeline.element],
      ["Steps", steps.element],
      ["Logs", log.element],
      ["State", state.element],
      ["Unrolled", whole.element],
      ["History", past.element],
    ],
    () => {
      log.show(run);
      whole.show(run);
      past.show(run);
    },
  );
  const side = h("div", { class: "column" }, questions, outcome.element, panel("Graph", graph.element));
  const element = h(
    "div",
    {},
    head.element,
    h("div", { class: "columns run-columns" }, side, h("div", { class: "column" }, pages.element)),
  );

  /** @param {string} workId */
  function forkBefore(workId) {
    pages.choose(HISTORY);
    past.before(workId);
    pages.element.scrollIntoView({ block: "nearest" });
  }

  /** A card is made once, so that what the user has typed stays. */
  function showQuestions() {
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

  function showSend() {
    const isWanted = run.status === "running" && run.sendable.length > 0;
    if (isWanted && send === null) {
      send = sendPanel(run, sent);
      side.append(send);
    } else if (!isWanted && send !== null) {
      send.remove();
      send = null;
    }
  }

  /** Child runs, each a row that leads to its page; the panel is there once there is one. */
  function showChildren() {
    if (run.children.length === 0) return;
    if (!children.firstChild) side.append(panel("Child runs", children));
    patch(
      children,
      runTable(run.children, { caption: "Child runs, each above its own, the one started first at the top" }),
      run.has_more_children
        ? h("p", { class: "muted" }, `Only the first ${count(run.children.length, "run")} shown.`)
        : null,
    );
  }

  return {
    element,
    forkBefore,
    connection: head.connection,
    tick: head.show,
    /** @param {Run} now */
    show(now) {
      run = now;
      head.show(run);
      showQuestions();
      outcome.show(run);
      if (!isPast) live.settle(run);
      timeline.show(run);
      steps.show(run);
      log.show(run);
      state.show(run);
      whole.show(run);
      past.show(run);
      showChildren();
      showSend();
    },
    /** @param {number} sequence @param {Envelope} envelope @param {Origin} origin */
    event(sequence, envelope, origin) {
      events.add(sequence, envelope, origin);
      if (sequence > run.head && !isPast) live.event(envelope);
    },
  };
}
