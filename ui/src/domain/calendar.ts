/** Months of days, and what a schedule did or will do on each. Days go as text, 2026-11-27, as the wall
 * of the schedule's zone shows them. */
import type { Schemas } from "@/api/client";
import type { Slot } from "./schedule";

type Fire = Pick<Schemas["FireView"], "local" | "state" | "outcome" | "count">;

export interface Day {
  /** Slots ahead. */
  readonly ahead: number;
  /** What became of slots, by the state that is shown. */
  readonly past: ReadonlyMap<string, number>;
  /** The calendar whose day off it is, "" = none. */
  readonly off: string;
  /** What daylight saving does to a slot of it, "" = nothing. */
  readonly dst: string;
}

const DAY_MS = 86_400_000;

export function dayOf(local: string): string {
  return local.slice(0, 10);
}

function textOf(ms: number): string {
  return new Date(ms).toISOString().slice(0, 10);
}

/** The month that is so many months behind another: 2026-11 and 2 are 2027-01. */
export function monthAfter(month: string, count: number): string {
  const [year = 0, number = 1] = month.split("-").map(Number);
  return textOf(Date.UTC(year, number - 1 + count, 1)).slice(0, 7);
}

/** The days of a month in whole weeks, from a Monday to a Sunday. */
export function daysOf(month: string): string[] {
  const first = Date.parse(`${month}-01T00:00:00Z`);
  const end = Date.parse(`${monthAfter(month, 1)}-01T00:00:00Z`);
  const monday = first - ((new Date(first).getUTCDay() + 6) % 7) * DAY_MS;
  const found: string[] = [];
  for (let at = monday; at < end || found.length % 7 !== 0; at += DAY_MS) found.push(textOf(at));
  return found;
}

/** What is to be seen of a slot that has been: how what it started ended, or why it started nothing. */
function shownState(fire: Fire): string {
  if (fire.state === "started") return fire.outcome ?? "Running";
  const shown: Readonly<Record<string, string>> = { queued: "Pending", skipped: "Skipped" };
  return shown[fire.state] ?? "Failed";
}

/** By day: the slots ahead, and what became of earlier ones. */
export function daysWith(slots: readonly Slot[], fires: readonly Fire[]): Map<string, Day> {
  const found = new Map<string, Day>();
  const change = (day: string, to: (old: Day) => Day) =>
    found.set(day, to(found.get(day) ?? { ahead: 0, past: new Map(), off: "", dst: "" }));
  for (const slot of slots)
    change(dayOf(slot.local), (old) => ({
      ...old,
      ahead: old.ahead + (slot.blackout ? 0 : 1),
      off: slot.blackout ?? old.off,
      dst: slot.dst ?? old.dst,
    }));
  for (const fire of fires)
    change(dayOf(fire.local), (old) => {
      const state = shownState(fire);
      return { ...old, past: new Map(old.past).set(state, (old.past.get(state) ?? 0) + fire.count) };
    });
  return found;
}
