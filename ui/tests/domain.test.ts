import { afterEach, describe, expect, it } from "vitest";

import { nextCursor } from "@/api/client";
import type { TaskDef } from "@/api/client";
import { shortDuration, useFormat } from "@/composables/useFormat";
import { usePreferences } from "@/composables/usePreferences";
import { spansOf } from "@/domain/ansi";
import { changesBetween } from "@/domain/changes";
import { chartOf } from "@/domain/charts";
import { bodyOf, EMPTY_FORM, faultsOf, formOf, pairsOf } from "@/domain/definition";
import { growthPerDay } from "@/domain/growth";
import { jsonTokens, parseJson } from "@/domain/json";
import { LOOKS, TASK_STATES } from "@/domain/state";
import {
  askOfFilter,
  bulkActions,
  EMPTY_FILTER,
  filterOfQuery,
  queryOfFilter,
} from "@/domain/taskFilter";

const ESC = "\u001b";

describe("spansOf", () => {
  const text = (line: string) =>
    spansOf(line)
      .map((span) => span.text)
      .join("");

  it("keeps colours and weight", () => {
    expect(spansOf(`a${ESC}[1;31mb${ESC}[0mc`)).toEqual([
      { text: "a", look: "" },
      { text: "b", look: "fg-red bold" },
      { text: "c", look: "" },
    ]);
  });

  it("takes out every other escape", () => {
    expect(text(`${ESC}]0;title\u0007x${ESC}[2Jy${ESC}[?25lz${ESC}Pq${ESC}\\!`)).toBe("xyz!");
  });

  it("leaves HTML as text", () => {
    expect(text("<script>alert(1)</script>")).toBe("<script>alert(1)</script>");
  });

  it("shows what a progress bar left", () => {
    expect(text("10 %\r20 %\r")).toBe("20 %");
  });

  it("shows no control characters", () => {
    expect(text("a\u0000b\u0008c\td")).toBe("abc\td");
  });

  it("reads extended colours without taking their numbers for others", () => {
    expect(spansOf(`${ESC}[38;2;1;31;4mx`)).toEqual([{ text: "x", look: "" }]);
    expect(spansOf(`${ESC}[38;5;2mx`)).toEqual([{ text: "x", look: "fg-green" }]);
  });
});

describe("jsonTokens", () => {
  it("gives the text back", () => {
    const value = JSON.stringify({ a: [1, -2.5e3, "x\"y", true, null], "k:": {} }, null, 2);
    expect(
      jsonTokens(value)
        .map((token) => token.text)
        .join(""),
    ).toBe(value);
  });

  it("tells keys from strings", () => {
    expect(jsonTokens('{"a":"b"}').map((token) => token.kind)).toEqual([
      "plain",
      "key",
      "plain",
      "string",
      "plain",
    ]);
  });
});

describe("parseJson", () => {
  it("takes nothing as nothing and says what is wrong", () => {
    expect(parseJson("  ")).toEqual({ ok: true, value: undefined });
    expect(parseJson("{")).toMatchObject({ ok: false });
  });
});

describe("a task filter", () => {
  it("comes back from its address", () => {
    const filter = { ...EMPTY_FILTER, states: ["Failed", "Timeout"], name: "a b", withinSec: 900 };
    expect(filterOfQuery(queryOfFilter(filter))).toEqual(filter);
  });

  it("forgets what is no state and no number", () => {
    expect(filterOfQuery({ state: "Failed,Nope", within: "x" })).toEqual({
      ...EMPTY_FILTER,
      states: ["Failed"],
    });
  });

  it("asks for what was created since", () => {
    expect(askOfFilter({ ...EMPTY_FILTER, withinSec: 60 }, 100_000)).toEqual({
      createdFrom: 40_000,
    });
  });
});

function definition(change: Partial<TaskDef>): TaskDef {
  return {
    defId: "1",
    version: 1,
    name: "n",
    executor: "embedded",
    targetKind: "",
    targetRef: "",
    labels: {},
    defaultPayload: null,
    timeoutSec: null,
    queueTimeoutSec: 0,
    maxRetries: 0,
    priority: 5,
    onLost: "retry",
    overridable: [],
    concurrencyKey: "",
    concurrencyLimit: 0,
    onConflict: "queue",
    description: "",
    createdAt: 0,
    updatedAt: 0,
    ...change,
  };
}

describe("a definition's form", () => {
  it("keeps a process whole, also what it does not show", () => {
    const payload = {
      command: "sh",
      args: ["-c", "echo  two words"],
      env: { A: "1=2" },
      killGraceSec: 3,
      limits: { memoryBytes: 64_000_000, pids: 9 },
      input: { a: 1 },
    };
    const known = definition({ executor: "os_process", defaultPayload: payload });
    expect(bodyOf(formOf(known), known)["defaultPayload"]).toEqual(payload);
  });

  it("keeps a concurrency key", () => {
    const known = definition({ concurrencyKey: "db", concurrencyLimit: 2, onConflict: "skip" });
    expect(bodyOf(formOf(known), known)).toMatchObject({
      concurrencyKey: "db",
      concurrencyLimit: 2,
      onConflict: "skip",
    });
  });

  it("keeps a service's labels", () => {
    const labels = { servicePath: "/q", team: "a" };
    const known = definition({
      executor: "service",
      targetKind: "service",
      targetRef: "prices",
      labels,
    });
    expect(formOf(known).labels).toBe("team=a");
    expect(bodyOf(formOf(known), known)["labels"]).toEqual(labels);
  });

  it("says what is missing", () => {
    expect(faultsOf({ ...EMPTY_FORM, executor: "os_process", workingDir: "x" })).toEqual({
      name: "required",
      command: "required",
      workingDir: "absolute",
    });
    expect(faultsOf({ ...EMPTY_FORM, name: "a", payload: "{", labels: "x" })).toEqual({
      defaultPayload: "json",
      labels: "pairs",
    });
  });

  it("reads pairs", () => {
    expect(pairsOf("a=1\n\n b = c=d ")).toEqual({ a: "1", b: "c=d" });
    expect(pairsOf("=1")).toBeNull();
  });
});

describe("changesBetween", () => {
  it("names each place that differs", () => {
    expect(changesBetween({ a: 1, b: [1, 2], c: 3 }, { a: 1, b: [1, 5], d: null })).toEqual([
      { path: "b[1]", before: "2", after: "5" },
      { path: "c", before: "3", after: undefined },
      { path: "d", before: undefined, after: "null" },
    ]);
  });
});

describe("growthPerDay", () => {
  it("is the slope of the line", () => {
    const at = [0, 600_000, 1_200_000];
    expect(growthPerDay(at, [10, 20, 30])).toBeCloseTo(1_440);
    expect(growthPerDay(at, [10, null, 30])).toBeCloseTo(1_440);
  });

  it("says nothing about too short a time", () => {
    expect(growthPerDay([0, 1_000], [1, 2])).toBeNull();
  });
});

describe("shortDuration", () => {
  it.each([
    [0, "0 ms"],
    [999, "999 ms"],
    [1_000, "1.0 s"],
    [9_999, "9.9 s"],
    [59_999, "59 s"],
    [60_000, "1 min"],
    [61_000, "1 m 01 s"],
    [3_725_000, "1 h 02 m"],
    [90_000_000, "1 d 1 h"],
  ])("%d is %s", (ms, text) => {
    expect(shortDuration(ms)).toBe(text);
  });
});

describe("how far away a moment is", () => {
  const { language, zone } = usePreferences();
  const before = [language.value, zone.value] as const;
  const format = useFormat();
  const ago = (at: string, now: string, inZone = "UTC") =>
    format.ago(Date.parse(at), Date.parse(now), inZone);
  afterEach(() => {
    [language.value, zone.value] = before;
  });

  it.each([
    ["10:00:00", "10:00:00.4", "now", "现在"],
    ["10:00:30", "10:00:00", "in 30 sec", "30 秒后"],
    ["09:59:00", "10:00:00", "1 min ago", "1 分钟前"],
    ["23:59:00", "00:01:00", "in 24 hr", "24 小时后"],
  ])("within a day is a number: %s at %s", (at, now, en, zh) => {
    language.value = "en";
    expect(ago(`2026-11-27T${at}Z`, `2026-11-27T${now}Z`)).toBe(en);
    language.value = "zh";
    expect(ago(`2026-11-27T${at}Z`, `2026-11-27T${now}Z`)).toBe(zh);
  });

  it.each([
    ["2026-11-28T10:00Z", "2026-11-27T09:59Z", "tomorrow", "明天"],
    ["2026-11-28T23:59Z", "2026-11-27T00:00Z", "tomorrow", "明天"],
    ["2026-11-29T00:00Z", "2026-11-27T23:00Z", "in 25 hr", "25 小时后"],
    ["2026-11-29T06:00Z", "2026-11-27T18:00Z", "in 36 hr", "36 小时后"],
    ["2026-11-26T00:00Z", "2026-11-27T23:00Z", "yesterday", "昨天"],
    ["2026-11-25T23:00Z", "2026-11-27T01:00Z", "26 hr ago", "26 小时前"],
    ["2026-11-29T23:00Z", "2026-11-27T20:00Z", "in 2 days", "后天"],
    ["2026-11-30T01:00Z", "2026-11-27T23:00Z", "in 2 days", "2 天后"],
    ["2026-11-24T23:00Z", "2026-11-27T01:00Z", "2 days ago", "2 天前"],
    ["2026-12-27T10:00Z", "2026-11-27T10:00Z", "in 30 days", "30 天后"],
  ])("has words only for days of the calendar: %s at %s", (at, now, en, zh) => {
    language.value = "en";
    expect(ago(at, now)).toBe(en);
    language.value = "zh";
    expect(ago(at, now)).toBe(zh);
  });

  it("goes by the calendar of the zone that is shown", () => {
    language.value = "en";
    const [at, now] = ["2026-11-28T22:30Z", "2026-11-27T21:30Z"] as const;
    expect(ago(at, now)).toBe("tomorrow");
    expect(ago(at, now, "Asia/Shanghai")).toBe("tomorrow");
    expect(ago(at, now, "Europe/Helsinki")).toBe("in 25 hr");
    zone.value = "utc";
    expect(format.ago(Date.parse(at), Date.parse(now))).toBe("tomorrow");
  });

  it("goes by days that daylight saving makes longer and shorter", () => {
    language.value = "en";
    // A day of 25 hours: 24 hours after its begin is the same day.
    expect(ago("2026-10-25T00:10+02:00", "2026-10-25T23:50+01:00", "Europe/Berlin")).toBe(
      "25 hr ago",
    );
    // A day of 23 hours: 47 hours after the evening before it is the day after it.
    expect(ago("2026-03-30T23:30+02:00", "2026-03-28T23:30+01:00", "Europe/Berlin")).toBe(
      "in 47 hr",
    );
    expect(ago("2026-03-30T23:30+02:00", "2026-03-29T00:10+01:00", "Europe/Berlin")).toBe(
      "tomorrow",
    );
  });

  it("has no words for days where the zone is not known", () => {
    language.value = "en";
    expect(ago("2026-11-28T10:00Z", "2026-11-27T10:00Z", "Mars/Olympus")).toBe("in 24 hr");
    expect(ago("2026-11-30T10:00Z", "2026-11-27T10:00Z", "Mars/Olympus")).toBe("in 3 days");
  });
});

describe("Chinese times", () => {
  const { language } = usePreferences();
  const before = language.value;
  afterEach(() => {
    language.value = before;
  });

  it("keep figures and words apart", () => {
    language.value = "zh";
    const format = useFormat();
    expect(format.ago(0, 30_000)).toBe("30 秒前");
    expect(format.ago(14 * 3_600_000, 0)).toBe("14 小时后");
    expect(format.wall("2026-11-28T02:30:00+01:00")).toBe("2026/11/28 周六 02:30");
    expect([shortDuration(300_000), shortDuration(303_000)]).toEqual(["5 分钟", "5 分 03 秒"]);
  });
});

describe("what can be done to many tasks", () => {
  it("is what their states allow", () => {
    expect(bulkActions([])).toEqual(["cancel", "rerun", "delete"]);
    expect(bulkActions(["Failed", "Timeout"])).toEqual(["rerun", "delete"]);
    expect(bulkActions(["Running"])).toEqual(["cancel", "rerun"]);
    expect(bulkActions(["Pending", "Canceled"])).toEqual(["cancel", "rerun", "delete"]);
  });
});

describe("nextCursor", () => {
  it("reads a Link header", () => {
    expect(nextCursor('</v1/tasks?limit=2&cursor=a%3D>; rel="next"')).toBe("a=");
    expect(nextCursor(null)).toBe("");
  });
});

describe("states", () => {
  it("have a look each", () => {
    for (const state of TASK_STATES) expect(LOOKS[state].color).toMatch(/^var\(--state-/);
  });
});

describe("a chart", () => {
  const lines = ["done", "failed"].map((name) => ({ name, color: "--ink", values: [1, 0] }));
  const text = String;
  const chart = { at: [0, 1], lines, time: text, exact: text, value: text };

  it("draws the first line over the others", () => {
    const made = chartOf(chart, String) as { series: { name: string; z: number }[] };
    expect(made.series.map((one) => [one.name, one.z])).toEqual([["done", 2], ["failed", 1]]);
  });

  it("has an axis without fractions for counts", () => {
    expect(chartOf({ ...chart, whole: true }, String)).toMatchObject({ yAxis: { minInterval: 1 } });
  });
});
