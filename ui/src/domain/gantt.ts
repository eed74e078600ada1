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

/** Where words have room beside bars: behind all of them, else before, else between two; null =
 * nowhere. spans: from and to of each bar, 0 .. 1 of the axis. room: how much of it words take. */
export function placeBeside(
  spans: readonly (readonly [number, number])[],
  room: number,
): { readonly left: number } | { readonly right: number } | null {
  const inOrder = [...spans].sort(([a], [b]) => a - b);
  const begin = inOrder[0]?.[0] ?? 0;
  let end = 0;
  let gap = { at: 0, length: 0 };
  for (const [from, to] of inOrder) {
    if (end > 0 && from - end > gap.length) gap = { at: end, length: from - end };
    end = Math.max(end, to);
  }
  if (1 - end >= room) return { left: end };
  if (begin >= room) return { right: 1 - begin };
  return gap.length >= room ? { left: gap.at } : null;
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
