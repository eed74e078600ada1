/** How far back a state's history is looked at, and how long a point of it is. */
export interface Range {
  readonly key: "hour" | "day" | "week" | "month" | "year";
  readonly spanMs: number;
  /** Minutes are kept for a week and hours for a year, so older ranges are made of hours. */
  readonly bucketSec: number;
}

const HOUR_MS = 3_600_000;
const DAY_MS = 24 * HOUR_MS;

export const RANGES: readonly Range[] = [
  { key: "hour", spanMs: HOUR_MS, bucketSec: 60 },
  { key: "day", spanMs: DAY_MS, bucketSec: 300 },
  { key: "week", spanMs: 7 * DAY_MS, bucketSec: 3_600 },
  { key: "month", spanMs: 30 * DAY_MS, bucketSec: 3_600 },
  { key: "year", spanMs: 365 * DAY_MS, bucketSec: 86_400 },
];

/** The range of that name, else a day. */
export function rangeOf(key: unknown): Range {
  const day = RANGES[1] as Range;
  return RANGES.find((one) => one.key === key) ?? day;
}

/** Whether a value can be drawn: a number, or true and false. */
export function isDrawable(type: string, value: string): boolean {
  if (["int", "double", "bool"].includes(type)) return true;
  return /^(true|false)$/i.test(value) || (value.trim() !== "" && Number.isFinite(Number(value)));
}
