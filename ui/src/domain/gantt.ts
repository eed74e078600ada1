/** Rows of a Gantt chart. Times in ms, on whatever axis the chart has. */
import { shortDuration } from "@/composables/useFormat";
import type { SegmentKind, Track } from "./timeline";

/** row: upper and lower lie over each other, for two runs beside each other. */
export interface GanttBar {
  readonly kind: SegmentKind;
  readonly from: number;
  readonly to: number;
  readonly state: string;
  readonly row?: "upper" | "lower";
}

/** lit: of the critical path. */
export interface GanttRow {
  readonly id: string;
  readonly title: string;
  readonly text: string;
  readonly bars: readonly GanttBar[];
  readonly lit?: boolean;
}

/** A step's row. now: where what goes on ends. base: what is 0 on the axis. */
export function rowOf(track: Track, now: number, base = 0): GanttRow {
  const last = track.segments.length - 1;
  const bars = track.segments.map((one, n) => ({
    kind: one.kind,
    from: one.from - base,
    to: (one.to ?? now) - base,
    state: one.kind !== "run" || n === last ? track.state : "Failed",
  }));
  return { id: track.id, title: track.title, text: tookOf(track, now), bars };
}

/** What its attempts took, with the pauses between them. */
export function tookMs(track: Track, now: number): number | null {
  const runs = track.segments.filter((one) => one.kind !== "wait");
  const [first] = runs;
  return first === undefined ? null : (runs.at(-1)?.to ?? now) - first.from;
}

function tookOf(track: Track, now: number): string {
  const took = tookMs(track, now);
  return took === null ? "" : shortDuration(took);
}
