import { describe, expect, it } from "vitest";

import { happeningOf } from "@/domain/happening";
import type { PastEvent } from "@/domain/happening";
import { calledBy } from "@/domain/simulation";

function past(event: string, data: object, name = ""): PastEvent {
  return { seq: 1, at: 0, topic: "alerts", event, name, data };
}

describe("a line of the event log", () => {
  it("names what an alert is about, and leads there", () => {
    const says = happeningOf(
      past("alert", { id: "webhook_failed", what: "6885e0", facts: ["6885e0", "refused", 7] }),
    );
    expect(says.what).toBe("webhook_failed");
    expect(says.name).toBe("6885e0");
    expect(says.place).toEqual({ name: "webhook", params: { id: "6885e0" } });
    const known = past("alert", { id: "webhook_failed", what: "6885e0", facts: [] }, "tell the shop");
    expect([happeningOf(known).name, happeningOf(known).id]).toEqual(["tell the shop", "6885e0"]);
  });

  it("takes no slot of a schedule for its name", () => {
    const says = happeningOf(
      past("schedule", { id: "77", what: "started", facts: ["started", 1795000000000] }),
    );
    expect([says.name, says.id]).toEqual(["77", ""]);
  });

  it("calls what has a name by it", () => {
    const says = happeningOf(
      past("schedule", { id: "77", what: "paused", facts: ["paused", "nightly", 7] }),
    );
    expect([says.name, says.id, says.isState]).toEqual(["nightly", "77", false]);
  });

  it("leads nowhere when it is gone", () => {
    const gone = past("workflow", { id: "77", what: "deleted", facts: ["deleted", "hello", 7] });
    expect(happeningOf(gone).place).toBeNull();
  });

  it("tells a state from a word", () => {
    const says = happeningOf(past("task", { taskId: "9", name: "build", state: "Failed" }));
    expect([says.what, says.isState, says.name, says.id]).toEqual(["Failed", true, "build", "9"]);
  });
});

describe("what became of a node, a worker or a service", () => {
  it.each([
    ["node", "unhealthy", "Unhealthy"],
    ["node", "drained", "Draining"],
    ["worker", "away", "Away"],
    ["service", "healthy", "Healthy"],
  ])("is a state: %s %s", (event, what, state) => {
    const says = happeningOf(past(event, { id: "rig-7", what }));
    expect([says.what, says.isState]).toEqual([state, true]);
  });
});

describe("the name of a simulated step", () => {
  const names = new Map([["0", "clean"], ["visit", "visit"]]);

  it("is that of what it runs where it has only a place", () => {
    expect(calledBy(names, "0")).toBe("clean");
    expect(calledBy(names, "each[0].visit")).toBe("each[0].visit");
  });
});
