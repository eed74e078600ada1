/** A column of a BaseTable. */
export interface Column {
  readonly key: string;
  readonly label: string;
  /** A CSS grid track; default: an equal share. */
  readonly width?: string;
  /** Numbers stand at the end. */
  readonly end?: boolean;
  readonly mono?: boolean;
  /** On a phone a row has two lines: main is the first, show the second, hide is left out. */
  readonly phone?: "main" | "show" | "hide";
}
