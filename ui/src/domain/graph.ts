/** A picture's parts: steps and what follows what. */

export interface GraphStep {
  readonly id: string;
  readonly title: string;
  /** "" or undefined: not of a run. */
  readonly state?: string;
  readonly note?: string;
}

export interface GraphEdge {
  readonly from: string;
  readonly to: string;
}

/** The edges of steps that follow each other in their order. */
export function chain(ids: readonly string[]): GraphEdge[] {
  return ids.slice(1).map((to, n) => ({ from: ids[n] ?? "", to }));
}
