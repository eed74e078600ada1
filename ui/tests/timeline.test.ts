import { describe, expect, it } from "vitest";

import type { StepRun } from "@/api/client";
import { placeBeside, rowOf, tookMs } from "@/domain/gantt";
import { momentsOf, stateAt, trackAt, tracksOf } from "@/domain/timeline";

const step = (stepId: string, over: Partial<StepRun>): StepRun => ({
  stepId,
  name: "",
  type: "task",
  definitionId: "",
  definitionVersion: 0,
  state: "Succeeded",
  taskId: `t-${stepId}`,
  attempt: 1,
  startedAt: null,
  finishedAt: null,
  ...over,
});
const STEPS = [
  step("a", { startedAt: 150, finishedAt: 400, attempt: 2 }),
  step("b", { state: "Skipped", taskId: null }),
  step("c", { state: "Failed", startedAt: 420, finishedAt: 500 }),
];
const EDGES = [
  { from: "a", to: "b" },
  { from: "a", to: "c" },
];
const TASKS = new Map([
  [
    "t-a",
    {
      createdAt: 100,
      attempts: [
        { startedAt: 150, finishedAt: 200 },
        { startedAt: 300, finishedAt: 400 },
      ],
    },
  ],
  ["t-c", { createdAt: 400, attempts: [] }],
]);
const [a, b, c] = tracksOf(STEPS, EDGES, TASKS, 100);

describe("a timeline", () => {
  it("tells waiting, running and pausing apart", () => {
    expect(a?.segments).toEqual([
      { kind: "wait", from: 100, to: 150 },
      { kind: "run", from: 150, to: 200 },
      { kind: "retry", from: 200, to: 300 },
      { kind: "run", from: 300, to: 400 },
    ]);
    expect(c?.segments.map((one) => one.kind)).toEqual(["wait", "run"]);
  });

  it("knows the state of each moment", () => {
    if (!a || !b || !c) throw new Error("a track is missing");
    const states = [50, 120, 160, 250, 350, 400].map((at) => stateAt(a, at));
    expect(states).toEqual(["Waiting", "Pending", "Running", "Retrying", "Running", "Succeeded"]);
    expect([399, 400].map((at) => stateAt(b, at))).toEqual(["Waiting", "Skipped"]);
    expect([410, 450, 500].map((at) => stateAt(c, at))).toEqual(["Pending", "Running", "Failed"]);
    expect(momentsOf([a, b, c])).toEqual([100, 150, 200, 300, 400, 420, 500]);
  });

  it("hides what came later", () => {
    if (!a) throw new Error("a track is missing");
    expect(trackAt(a, 170)).toMatchObject({
      state: "Running",
      segments: [
        { kind: "wait", from: 100, to: 150 },
        { kind: "run", from: 150, to: 170 },
      ],
    });
  });

  it("makes rows: what failed before is shown as failed, and what took how long is told", () => {
    if (!a) throw new Error("a track is missing");
    const row = rowOf(a, 500, 100);
    expect(row.bars.map((one) => [one.kind, one.from, one.state])).toEqual([
      ["wait", 0, "Succeeded"],
      ["run", 50, "Failed"],
      ["retry", 100, "Succeeded"],
      ["run", 200, "Succeeded"],
    ]);
    expect(row.text).toBe("250 ms");
    expect(tookMs(a, 500)).toBe(250);
  });

  it("lets what goes on go on", () => {
    const [live] = tracksOf([step("x", { state: "Retrying", attempt: 1, startedAt: 20 })], [],
      new Map([["t-x", { createdAt: 10, attempts: [{ startedAt: 20, finishedAt: 30 }] }]]), 0);
    expect(live?.segments.at(-1)).toEqual({ kind: "retry", from: 30, to: null });
    expect(live?.endedAt).toBeNull();
  });
});

describe("the words of a row of a Gantt chart", () => {
  it.each([
    ["behind the bars", [[0, 0.2]], { left: 0.2 }],
    ["before bars that end late", [[0.5, 0.55], [0.6, 1]], { right: 0.5 }],
    ["between an early and a late one", [[0.9, 1], [0, 0.1]], { left: 0.1 }],
    ["nowhere beside a bar that takes it all", [[0.05, 1]], null],
    ["nowhere where bars lie over each other", [[0, 0.6], [0.1, 0.3], [0.65, 1]], null],
  ] as const)("stand %s", (_, spans, place) => {
    expect(placeBeside(spans, 0.14)).toEqual(place);
  });
});
