/** When each step of a run waited, ran and paused; and how it was at any moment. */
import type { Attempt, StepRun } from "@/api/client";
import type { GraphEdge } from "./graph";

/** wait: for its turn. run: an attempt. retry: the pause before the next one. */
export type SegmentKind = "wait" | "run" | "retry";

/** Unix ms; to: null = it goes on. */
export interface Segment {
  readonly kind: SegmentKind;
  readonly from: number;
  readonly to: number | null;
}

export interface Track {
  readonly id: string;
  readonly title: string;
  /** How it is now. */
  readonly state: string;
  readonly segments: readonly Segment[];
  /** Since when it is in that state, if that is its end; null = it is not over. */
  readonly endedAt: number | null;
}

/** What is known of a step's task. createdAt: when its turn came. */
export interface TaskTimes {
  readonly createdAt: number;
  readonly attempts: readonly Pick<Attempt, "startedAt" | "finishedAt">[];
}

const ENDS: ReadonlySet<string> = new Set(["Succeeded", "Failed", "Timeout", "Canceled", "Skipped"]);

/** A step's segments. of: of its task, when it has one. */
function segmentsOf(step: StepRun, of: TaskTimes | undefined): Segment[] {
  const begun = step.startedAt;
  const known = (of?.attempts ?? []).filter((one) => one.startedAt !== null);
  const runs =
    known.length > 0
      ? known.map((one) => ({ from: one.startedAt ?? 0, to: one.finishedAt }))
      : begun === null
        ? []
        : [{ from: begun, to: step.finishedAt }];
  const found: Segment[] = [];
  let before = of?.createdAt ?? null;
  let kind: SegmentKind = "wait";
  for (const one of runs) {
    if (before !== null && one.from > before) found.push({ kind, from: before, to: one.from });
    found.push({ kind: "run", ...one });
    before = one.to;
    kind = "retry";
  }
  if (before !== null && !ENDS.has(step.state) && step.state !== "Running")
    found.push({ kind, from: before, to: null });
  return found;
}

/**
 * All steps of a run. tasks: by the id of the task. A skipped step has no times of its own: it was
 * settled when the last of those it needs was.
 */
export function tracksOf(
  steps: readonly StepRun[],
  edges: readonly GraphEdge[],
  tasks: ReadonlyMap<string, TaskTimes>,
  begunAt: number,
): Track[] {
  const byId = new Map(steps.map((one) => [one.stepId, one]));
  const needs = new Map<string, string[]>();
  for (const edge of edges) needs.set(edge.to, [...(needs.get(edge.to) ?? []), edge.from]);
  const known = new Map<string, number | null>();
  const endOf = (id: string): number | null => {
    const found = known.get(id);
    if (found !== undefined) return found;
    known.set(id, null); // of a circle nothing is known
    const step = byId.get(id);
    let end: number | null = null;
    if (step !== undefined && ENDS.has(step.state)) {
      const settled = (needs.get(id) ?? []).map(endOf).filter((at) => at !== null);
      end = step.finishedAt ?? Math.max(begunAt, ...settled);
    }
    known.set(id, end);
    return end;
  };
  return steps.map((step) => ({
    id: step.stepId,
    title: step.name || step.stepId,
    state: step.state,
    segments: segmentsOf(step, tasks.get(step.taskId ?? "")),
    endedAt: endOf(step.stepId),
  }));
}

/** How a step was at a moment. */
export function stateAt(track: Track, at: number): string {
  if (track.endedAt !== null && at >= track.endedAt) return track.state;
  const segment = [...track.segments].reverse().find((one) => one.from <= at);
  if (segment === undefined) return "Waiting";
  if (segment.kind === "wait") return "Pending";
  if (segment.kind === "retry") return "Retrying";
  return segment.to === null || at < segment.to ? "Running" : "Retrying";
}

/** The same step as one saw it at a moment: what came later is not there yet. */
export function trackAt(track: Track, at: number): Track {
  return {
    ...track,
    state: stateAt(track, at),
    segments: track.segments
      .filter((one) => one.from <= at)
      .map((one) => (one.to !== null && one.to <= at ? one : { ...one, to: at })),
  };
}

/** All moments at which something changed, in order. */
export function momentsOf(tracks: readonly Track[]): number[] {
  const found = new Set<number>();
  for (const track of tracks) {
    for (const one of track.segments) {
      found.add(one.from);
      if (one.to !== null) found.add(one.to);
    }
    if (track.endedAt !== null) found.add(track.endedAt);
  }
  return [...found].sort((a, b) => a - b);
}
