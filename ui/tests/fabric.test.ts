import { describe, expect, it } from "vitest";

import { byDevice, inOrder, ruleBody, ruleFaults, ruleForm } from "@/domain/alarm";
import type { Alarm } from "@/domain/alarm";
import { isDrawable, RANGES, rangeOf } from "@/domain/deviceHistory";
import { type Reason, reasonText } from "@/domain/reason";
import { healthCounts, tilesOf } from "@/domain/topology";
import type { Device, Instance, Node } from "@/domain/topology";
import { limitShare, ranOutOfMemory } from "@/domain/usage";

function alarm(alarmId: string, more: Partial<Alarm> = {}): Alarm {
  return {
    alarmId,
    ruleId: "r",
    name: "too hot",
    severity: "warning",
    resourceId: "press-1",
    state: "temp",
    value: "85",
    raisedAt: 1,
    clearedAt: null,
    clearedBy: "",
    acknowledgedAt: null,
    acknowledgedBy: "",
    note: "",
    ...more,
  };
}

describe("alarms", () => {
  it("stand in the order in which they want to be seen", () => {
    const alarms = [
      alarm("over", { clearedAt: 9, severity: "critical", raisedAt: 8 }),
      alarm("known", { acknowledgedAt: 5, severity: "critical" }),
      alarm("old"),
      alarm("new", { raisedAt: 4 }),
      alarm("worst", { severity: "critical" }),
      alarm("justOver", { clearedAt: 12, raisedAt: 11, severity: "info" }),
    ];
    expect(inOrder(alarms).map((one) => one.alarmId)).toEqual([
      "worst",
      "new",
      "old",
      "known",
      "justOver",
      "over",
    ]);
  });

  it("are counted by device with the worst of them", () => {
    const found = byDevice([
      alarm("a", { severity: "info" }),
      alarm("b", { severity: "critical" }),
      alarm("c"),
      alarm("d", { resourceId: "press-2", clearedAt: 3 }),
    ]);
    expect([...found]).toEqual([["press-1", { count: 3, worst: "critical" }]]);
  });
});

describe("a rule", () => {
  const rule = {
    name: "too hot",
    state: "temp",
    op: ">" as const,
    value: 80,
    hysteresis: 5,
    forSec: 10,
    resourceId: "",
    type: "press",
    severity: "critical" as const,
  };

  it("says what it was made of", () => {
    expect(ruleBody(ruleForm(rule))).toEqual(rule);
  });

  it("of texts has no hysteresis", () => {
    const form = { ...ruleForm(rule), op: "==" as const, value: "open", of: "all" as const };
    expect(ruleFaults(form)).toEqual({});
    expect(ruleBody(form)).toEqual({ ...rule, op: "==", value: "open", hysteresis: 0, type: "" });
  });

  it("says what it lacks", () => {
    expect(ruleFaults({ ...ruleForm(null), of: "device" })).toEqual({
      name: "required",
      state: "required",
      resourceId: "required",
      value: "number",
    });
  });
});

describe("a state's history", () => {
  it("is made of minutes while they are kept, then of hours, and never of too many points", () => {
    for (const { spanMs, bucketSec } of RANGES) {
      expect(bucketSec % (spanMs > 7 * 86_400_000 ? 3_600 : 60)).toBe(0);
      expect(spanMs / 1_000 / bucketSec).toBeLessThanOrEqual(1_000);
    }
    expect(rangeOf("week").key).toBe("week");
    expect(rangeOf(undefined).key).toBe("day");
  });

  it("is there for numbers and switches", () => {
    expect([isDrawable("", "12.5"), isDrawable("", "true"), isDrawable("int", "–")]).toEqual([
      true,
      true,
      true,
    ]);
    expect([isDrawable("", "open"), isDrawable("", ""), isDrawable("string", "–")]).toEqual([
      false,
      false,
      false,
    ]);
  });
});

function node(nodeId: string, more: Partial<Node> = {}): Node {
  return {
    nodeId,
    ip: "",
    health: "Healthy",
    lastSeen: 0,
    labels: {},
    ownLabels: {},
    instancesMax: 0,
    instances: 0,
    draining: false,
    lostAt: null,
    agentVersion: "",
    bootId: "",
    registeredAt: 0,
    ...more,
    facts: {
      cpus: 0,
      cpuPercent: 0,
      memTotal: 0,
      memAvailable: 0,
      diskTotal: 0,
      diskFree: 0,
      load1: 0,
      os: "",
      arch: "",
      bootId: "",
      ...more.facts,
    },
  };
}

describe("the topology", () => {
  it("has trouble first, then names with their numbers as numbers", () => {
    const tiles = tilesOf(
      [node("rig-10"), node("rig-9"), node("rig-11", { health: "Unhealthy" })],
      [],
      [],
      [],
    );
    expect(tiles.map((one) => one.node.nodeId)).toEqual(["rig-11", "rig-9", "rig-10"]);
    expect(healthCounts(tiles)).toEqual([
      ["Healthy", 2],
      ["Unhealthy", 1],
    ]);
  });

  it("puts everything onto its node", () => {
    const copy = (ordinal: number, nodeId: string | null) =>
      ({ entry: "pump", ordinal, nodeId }) as Instance;
    const facts = { ...node("x").facts, cpus: 4, cpuPercent: 25, memTotal: 100, memAvailable: 40 };
    const [tile, other] = tilesOf(
      [node("a", { instancesMax: 3, facts }), node("b", { instancesMax: 1 })],
      [copy(1, "a"), copy(0, "a"), copy(2, null), copy(3, "b"), copy(4, "b")],
      [],
      [{ resourceId: "radar", nodeId: "a" } as Device, { resourceId: "lone", nodeId: "" } as Device],
    );
    expect(tile?.instances.map((one) => one.ordinal)).toEqual([0, 1]);
    expect([tile?.free, tile?.cpu, tile?.memory]).toEqual([1, 0.25, 0.6]);
    expect(tile?.devices.map((one) => one.resourceId)).toEqual(["radar"]);
    expect([other?.free, other?.cpu, other?.memory]).toEqual([0, null, null]);
  });
});

describe("what an instance uses", () => {
  it("is compared with its limit where there is one", () => {
    const used = { stats: { memoryBytes: 30 } } as Instance;
    expect([limitShare(used, 60), limitShare(used, 0)]).toEqual([0.5, null]);
    expect(limitShare({ stats: null } as Instance, 60)).toBeNull();
  });

  it("is too much when the kernel says so", () => {
    expect(ranOutOfMemory("killed by SIGKILL (out of memory)")).toBe(true);
    expect(
      ranOutOfMemory("exit code 1 (the kernel killed 2 of its processes: out of memory)"),
    ).toBe(true);
    expect(ranOutOfMemory("exit code 1")).toBe(false);
  });
});

describe("why no node takes a copy", () => {
  const why = "no node fits: the label gpu=yes is missing (2 nodes); it is lost (1 node)";
  const reason: Reason = {
    code: "no_node_fits",
    values: {},
    because: [
      { code: "label_missing", values: { label: "gpu", value: "yes" }, because: [], nodes: 2 },
      { code: "node_lost", values: {}, because: [], nodes: 1 },
    ],
    nodes: 0,
  };
  const say = (key: string, values: Readonly<Record<string, string | number>>) =>
    `${key}<${Object.values(values).join(" ")}>`;

  it("is said by the catalogue, reason for reason", () => {
    expect(reasonText({ why, reason }, say, () => true)).toBe(
      "reason.no_node_fits<reason.onNodes<reason.label_missing<gpu yes > 2>reason.and<>" +
        "reason.onNodes<reason.node_lost<> 1>>",
    );
    expect(reasonText({ why: null, reason: null }, say, () => true)).toBe("");
  });

  it("stays as plumd wrote it where a word of it is not known", () => {
    expect(reasonText({ why, reason }, say, (key) => !key.endsWith("node_lost"))).toBe(why);
  });
});
