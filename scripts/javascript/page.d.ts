// Response types of the console routes of the server (server/console/shapes.py and graph.py), to type-check the page.

/** An event as the stream carries it. */
interface Envelope {
  type: string;
  types?: string[];
  qualified_name?: string;
  value?: Record<string, any>;
}

/** Where an event of the stream comes from; `at` is 0 where it is not recorded. */
interface Origin {
  step: string;
  attempt: number;
  at: number;
}

/** A value that may be left out because of its size. */
interface Shown {
  value: any;
  size?: number;
  why_not?: string | null;
}

interface ShownEvent extends Shown {
  type: string;
}

interface EventClass {
  type: string;
  qualified_name: string;
  schema: Schema | null;
}

/** A JSON schema, as pydantic writes it. */
type Schema = Record<string, any>;

interface Question {
  id: string;
  step: string;
  asked: ShownEvent | null;
  answers: EventClass[];
  requirements: Record<string, any>;
  until: number | null;
}

/** How many work items of a step are in each state. */
interface StepCounts {
  name: string;
  num_workers: number | null;
  queued: number;
  ready: number;
  running: number;
  retrying: number;
  waiting: number;
  parked: number;
  failed: number;
  done: number;
  failures: number;
  rescued: number;
  longest_ms: number;
  total_ms: number;
  [state: string]: any;
}

/** One attempt in the timeline. */
interface Bar {
  step: string;
  work_id: string;
  attempt: number;
  worker: string;
  process: string;
  started_at: number;
  ended_at: number | null;
  outcome: string;
  event: string | null;
  error: string | null;
  traceback: string | null;
  task_url?: string | null;
}

interface ListedRun {
  run_id: string;
  workflow: string;
  route: string | null;
  status: string;
  created_at: number;
  ended_at: number | null;
  waits_for_admission: boolean;
  is_queued: boolean;
  is_asleep: boolean;
  began_with: ShownEvent | null;
  input_bytes?: number;
  error: string | null;
  /** Of a child run: 1 for those that the run itself has started. */
  generation?: number;
  /** An event that contains what was searched for. */
  found?: { type: string; excerpt: string };
}

interface Run extends ListedRun {
  now: number;
  parent: string | null;
  session: string | null;
  children: ListedRun[];
  has_more_children: boolean;
  head: number;
  failure: { step: string; attempts: number; error: string } | null;
  result: (Shown & { event: string }) | null;
  traceback: string | null;
  trouble: string | null;
  steps: StepCounts[];
  is_partial: boolean;
  questions: Question[];
  timeline: Bar[];
  timeline_left_out: number;
  state: (Shown & { key: string; size: number })[];
  state_left_out: number;
  sendable: EventClass[];
}

/** A work item as its drawer shows it. */
interface WorkDetail {
  work_id: string;
  ready_at: number | null;
  executions: Bar[];
  given: PassedEvent[];
  emitted: PassedEvent[];
  writes: { at: number; version: number; values: (Shown & { key: string })[]; deleted: string[] }[];
  read: { attempt: number; keys: string[] | null } | null;
  left_out: number;
  log: RunLog;
}

/** What an attempt has read of `ctx.store`: keys with their values, and those that had none. */
interface StateRead {
  values: (Shown & { key: string })[];
  unset: string[];
  left_out: number;
}

interface RunLog {
  lines: LogLine[];
  is_cut: boolean;
  left_out: number;
}

interface LogLine {
  at: number;
  level: string;
  logger: string;
  text: string;
  step: string;
  work_id: string;
  attempt: number;
}

interface PassedEvent {
  type: string;
  event: ShownEvent | null;
  links: { work_id: string; step: string }[];
  is_published: boolean;
}

interface FailureGroup {
  workflow: string;
  route: string | null;
  step: string;
  kind: string;
  reason: string;
  error: string;
  last_at: number;
  run_ids: string[];
}

interface QueueFigures {
  name: string;
  unclaimed: number;
  oldest_seconds: number;
  median_ms: number;
  p95_ms: number;
  paused_since: number | null;
}

interface Overview {
  now: number;
  runs: Record<string, number>;
  waiting: number | null;
  queued: number;
  parked: number;
  ended: { since_at: number; part_seconds: number; counts: Record<string, number[]> };
  steps: { workflow: string; step: string; count: number; median_ms: number; p95_ms: number; total_ms: number }[];
  queues: QueueFigures[];
  workers: { live: number; lost: number };
  memory: { used: number; limit: number };
  counters: Record<string, number>;
  sweep_lag_seconds: number;
  problems: { text: string; href: string }[];
  failures: FailureGroup[];
  oldest: ListedRun[];
}

interface WorkerRow {
  name: string;
  host: string;
  pid: number;
  pool: string;
  workflows: string[];
  queues: string[];
  paused: string[];
  silent_seconds: number;
  is_live: boolean;
  detours: string[];
  library: string;
  at_work: number;
}

interface GraphBox {
  id: string;
  look: string;
  label: string;
  title: string;
  detail: string;
  x: number;
  y: number;
  width: number;
  height: number;
}

interface GraphArrow {
  from: string;
  to: string;
  line: "plain" | "thick" | "dashed";
  label: string;
  path: string;
  x: number;
  y: number;
}

interface Graph {
  title: string;
  width: number;
  height: number;
  boxes: GraphBox[];
  arrows: GraphArrow[];
  headings: string[];
  rows: string[][];
}

interface ServedWorkflow {
  name: string;
  workflow_name: string;
  description: string;
  steps: number;
  start: { type: string; schema: Schema };
  trouble: string | null;
  graph: Graph;
}

interface JSON {
  // Chromium, Firefox and Safari hand the source text to a reviver; the standard library's types do not know it yet.
  parse(text: string, reviver: (key: string, value: any, context?: { source?: string }) => any): any;
}
