import { describe, expect, it } from "vitest";

import { daysOf, daysWith, monthAfter } from "@/domain/calendar";

describe("months", () => {
  it("are whole weeks from Monday to Sunday", () => {
    const days = daysOf("2026-11");
    expect([days[0], days.at(-1), days.length]).toEqual(["2026-10-26", "2026-12-06", 42]);
    expect(daysOf("2027-02")).toHaveLength(28); // from a Monday to a Sunday
    expect(daysOf("2028-02").filter((day) => day.startsWith("2028-02"))).toHaveLength(29);
  });

  it("follow each other over years", () => {
    expect([monthAfter("2026-12", 1), monthAfter("2026-01", -1), monthAfter("2026-11", 14)]).toEqual([
      "2027-01",
      "2025-12",
      "2028-01",
    ]);
  });

  it("hold what was and what is ahead", () => {
    const slot = (local: string, more = {}) =>
      ({ at: 0, local, offsetSec: 0, startsAt: 0, dst: null, blackout: null, ...more });
    const fire = (local: string, state: string, outcome: string | null = null, count = 1) =>
      ({ local, state, outcome, count });
    const found = daysWith(
      [
        slot("2026-11-27T02:30:00+01:00"),
        slot("2026-11-27T03:30:00+01:00", { dst: "gap-shifted" }),
        slot("2026-11-28T02:30:00+01:00", { blackout: "holidays" }),
      ],
      [
        fire("2026-11-26T02:30:00+01:00", "started", "Failed"),
        fire("2026-11-26T03:30:00+01:00", "started", "Failed"),
        fire("2026-11-26T04:30:00+01:00", "started"),
        fire("2026-11-25T02:30:00+01:00", "missed", null, 7),
        fire("2026-11-25T03:30:00+01:00", "skipped"),
      ],
    );
    expect(found.get("2026-11-27")).toMatchObject({ ahead: 2, dst: "gap-shifted", off: "" });
    expect(found.get("2026-11-28")).toMatchObject({ ahead: 0, off: "holidays" });
    expect([...(found.get("2026-11-26")?.past ?? [])]).toEqual([["Failed", 2], ["Running", 1]]);
    expect([...(found.get("2026-11-25")?.past ?? [])]).toEqual([["Failed", 7], ["Skipped", 1]]);
  });
});
