/** A place on a canvas, in its own units. */
export interface Spot {
  readonly x: number;
  readonly y: number;
}
