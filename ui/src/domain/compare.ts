/** Two runs of a workflow beside each other, each from its own beginning. */
import type { Run } from "@/api/client";
import { shortDuration } from "@/composables/useFormat";
import { chain } from "./graph";
import { rowOf, tookMs } from "./gantt";
import type { GanttBar, GanttRow } from "./gantt";
import { tracksOf } from "./timeline";
import type { Track } from "./timeline";

/** A step in both; null = it is not in that run's version, or did not begin. */
export interface StepPair {
  readonly id: string;
  readonly title: string;
  readonly states: readonly [string, string];
  readonly took: readonly [number | null, number | null];
}

function tracksIn(run: Run): Map<string, Track> {
  const steps = run.steps ?? [];
  const edges = chain(steps.map((one) => one.stepId));
  return new Map(tracksOf(steps, edges, new Map(), run.createdAt).map((one) => [one.id, one]));
}

function endOf(run: Run, now: number): number {
  return run.finishedAt ?? now;
}

/** How long each took. */
export function lengthOf(run: Run, now: number): number {
  return Math.max(1, endOf(run, now) - run.createdAt);
}

/** The steps of both, those of the first in front. */
export function pairsOf(first: Run, second: Run, now: number): StepPair[] {
  const [a, b] = [tracksIn(first), tracksIn(second)];
  return [...new Set([...a.keys(), ...b.keys()])].map((id) => {
    const [one, two] = [a.get(id), b.get(id)];
    return {
      id,
      title: one?.title ?? two?.title ?? id,
      states: [one?.state ?? "", two?.state ?? ""],
      took: [
        one ? tookMs(one, endOf(first, now)) : null,
        two ? tookMs(two, endOf(second, now)) : null,
      ],
    };
  });
}

/** Both on one axis: the first above, the second below. */
export function overlaid(first: Run, second: Run, now: number): GanttRow[] {
  const [a, b] = [tracksIn(first), tracksIn(second)];
  const bars = (track: Track | undefined, run: Run, row: "upper" | "lower"): GanttBar[] =>
    track === undefined
      ? []
      : rowOf(track, endOf(run, now), run.createdAt).bars.map((bar) => ({ ...bar, row }));
  return pairsOf(first, second, now).map(({ id, title, took: [one, two] }) => ({
    id,
    title,
    text: [one, two].map((ms) => (ms === null ? "–" : shortDuration(ms))).join(" / "),
    bars: [...bars(a.get(id), first, "upper"), ...bars(b.get(id), second, "lower")],
  }));
}
