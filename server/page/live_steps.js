// The lights of a run's graph between two answers of the server.

/** The graph's lights: what the server has counted, moved on by the events that came since. */
export function liveSteps(graph) {
  let steps = new Map();
  let isDue = false;
  let isPartial = false;
  const draw = () => {
    isDue = false;
    graph.show(steps, isPartial);
  };
  const show = () => {
    if (!isDue) requestAnimationFrame(draw);
    isDue = true;
  };
  return {
    settle(run) {
      steps = new Map(run.steps.map((step) => [step.name, { ...step }]));
      isPartial = run.is_partial;
      show();
    },
    event(envelope) {
      const told = envelope.type === "StepStateChanged" ? envelope.value : null;
      const step = told && steps.get(told.name);
      if (!step) return;
      if (told.step_state === "running") {
        step.running += 1;
        step.ready = Math.max(0, step.ready - 1);
      } else if (told.step_state === "not_running") {
        step.running = Math.max(0, step.running - 1);
        if (told.output_event_name) step.done += 1;
      } else if (told.step_state === "preparing") {
        step.queued += 1;
      }
      show();
    },
  };
}
