// The state of each step in a run's graph, updated by events between two answers of the server.

/**
 * Step counts as the server gave them, updated by the events since.
 *
 * @param {ReturnType<typeof import("./graph.js").graphView>} graph
 */
export function liveSteps(graph) {
  /** @type {Map<string, StepCounts>} */
  let steps = new Map();
  let isDue = false;
  let isPartial = false;
  let status = "";
  const draw = () => {
    isDue = false;
    graph.show(steps, status, isPartial);
  };
  const show = () => {
    if (!isDue) requestAnimationFrame(draw);
    isDue = true;
  };
  return {
    /** Start again from the server's counts. @param {Run} run */
    settle(run) {
      steps = new Map(run.steps.map((step) => [step.name, { ...step }]));
      isPartial = run.is_partial;
      status = run.status;
      show();
    },
    /** @param {Envelope} envelope */
    event(envelope) {
      const change = envelope.type === "StepStateChanged" ? envelope.value : null;
      const step = change && steps.get(change.name);
      if (!step) return;
      if (change.step_state === "running") {
        step.running += 1;
        // It was dispatched, or had no slot until now, or waited for its next attempt; no event says which.
        if (step.ready > 0) step.ready -= 1;
        else if (step.queued > 0) step.queued -= 1;
        else if (step.retrying > 0) step.retrying -= 1;
      } else if (change.step_state === "not_running") {
        step.running = Math.max(0, step.running - 1);
        if (change.output_event_name) step.done += 1;
      } else if (change.step_state === "preparing") {
        step.queued += 1;
      }
      show();
    },
  };
}
