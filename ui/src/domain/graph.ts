/** A picture's parts: steps and what follows what. */

import type { Spot } from "./spot";

export interface GraphStep {
  readonly id: string;
  readonly title: string;
  /** "" or undefined: not of a run. */
  readonly state?: string;
  readonly note?: string;
  /** Of two versions: what became of it. */
  readonly mark?: "added" | "removed" | "changed";
  /** Where somebody put it. */
  readonly position?: Spot;
}

export interface GraphEdge {
  readonly from: string;
  readonly to: string;
  readonly label?: string;
}

/** A step as a workflow's version says it. */
interface Needing {
  readonly id?: string;
  readonly needs?: readonly (string | { readonly step: string; readonly on: string })[];
}

/** The ids of steps, as plumd gives them: their own, else their place. */
export function idsOf(steps: readonly Needing[]): string[] {
  return steps.map((step, place) => step.id ?? String(place));
}

/**
 * What follows what: by `needs` when a step has some, else one after the other.
 *
 * label: of an end that is asked for, like `true`.
 */
export function edgesOf(steps: readonly Needing[]): GraphEdge[] {
  const ids = idsOf(steps);
  if (steps.every((step) => step.needs === undefined)) return chain(ids);
  return steps.flatMap((step, place) =>
    (step.needs ?? []).map((need) =>
      typeof need === "string"
        ? { from: need, to: ids[place] ?? "" }
        : { from: need.step, to: ids[place] ?? "", label: need.on },
    ),
  );
}

/** The edges of steps that follow each other in their order. */
export function chain(ids: readonly string[]): GraphEdge[] {
  return ids.slice(1).map((to, n) => ({ from: ids[n] ?? "", to }));
}

/** From each step of a run to the one that undoes it. */
export function undoEdges(
  steps: readonly { readonly stepId: string; readonly compensates?: string }[],
): GraphEdge[] {
  return steps.flatMap(({ stepId, compensates }) =>
    compensates ? [{ from: compensates, to: stepId }] : [],
  );
}
