/** How far away a moment is, in the unit that says it best. */

export interface Distance {
  /** Below 0: it is past. */
  readonly count: number;
  readonly unit: "day" | "hour" | "minute" | "second";
  /** Whether a word may stand for the number: "tomorrow" for one day, "now" for no second. */
  readonly worded: boolean;
}

const [SECOND, MINUTE, HOUR, DAY] = [1_000, 60_000, 3_600_000, 86_400_000];

/**
 * From now to a moment, both Unix ms.
 *
 * dayOf: the number of a moment's calendar day, NaN = not known. A word for a day means that day of
 * the calendar; less than two days for which there is none are hours.
 */
export function distanceTo(ms: number, now: number, dayOf: (ms: number) => number): Distance {
  const diff = ms - now;
  const size = Math.abs(diff);
  const of = (unit: Distance["unit"], length: number, worded = false): Distance => ({
    count: Math.round(diff / length),
    unit,
    worded,
  });
  if (size < MINUTE) return of("second", SECOND, true);
  if (size < HOUR) return of("minute", MINUTE);
  if (size < DAY) return of("hour", HOUR);
  const days = dayOf(ms) - dayOf(now);
  if (size < 2 * DAY)
    return Math.abs(days) === 1 ? { count: days, unit: "day", worded: true } : of("hour", HOUR);
  const far = of("day", DAY);
  return { ...far, worded: far.count === days };
}
