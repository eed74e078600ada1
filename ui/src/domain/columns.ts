/** A column of a BaseTable. */
export interface Column {
  readonly key: string;
  readonly label: string;
  /** A CSS grid track; default: an equal share. */
  readonly width?: string;
  /** Numbers stand at the end. */
  readonly end?: boolean;
  readonly mono?: boolean;
  /**
   * On a phone a row has two lines: main is the first, with what stands at its side; show and named
   * are the second, named with its label; hide is left out.
   */
  readonly phone?: "main" | "side" | "show" | "named" | "hide";
}
