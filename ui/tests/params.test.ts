import { describe, expect, it } from "vitest";

import { isDrawn, titleOf } from "@/domain/draft";
import type { DraftStep } from "@/domain/draft";
import { fieldsOf, missingParams, withParam } from "@/domain/params";
import { eventsOf, isAsking, ownerOf, ownId } from "@/domain/waiting";
import type { StepRun } from "@/api/client";

const SCHEMA = {
  type: "object",
  required: ["site", "count"],
  properties: {
    site: { enum: ["north", "south", 3], title: "Site" },
    count: { type: "integer", minimum: 1, maximum: 9, default: 3, description: "How many." },
    ratio: { type: "number" },
    dry: { type: "boolean" },
    note: { type: "string", maxLength: 20, default: "" },
    more: { type: ["string", "null"] },
  },
};

describe("fields of parameters", () => {
  it("are of the kind that the schema says", () => {
    const fields = fieldsOf(SCHEMA);
    expect(fields.map((one) => [one.name, one.kind])).toEqual([
      ["site", "choice"],
      ["count", "whole"],
      ["ratio", "number"],
      ["dry", "choice"],
      ["note", "text"],
      ["more", "json"],
    ]);
    const [site, count, , dry, note] = fields;
    expect(site).toMatchObject({ label: "Site", required: true, fallback: "" });
    expect(site?.choices.map((one) => one.json)).toEqual(['"north"', '"south"', "3"]);
    expect(count).toMatchObject({ required: false, fallback: "3", min: 1, max: 9, hint: "How many." });
    expect(dry?.choices.map((one) => one.text)).toEqual(["true", "false"]);
    expect(note?.long).toBe(20);
  });

  it("are none where there is no schema", () => {
    for (const odd of [undefined, null, 1, [], {}, { properties: [] }]) expect(fieldsOf(odd)).toEqual([]);
    expect(fieldsOf({ properties: { a: true } })).toMatchObject([{ name: "a", kind: "json" }]);
  });

  it("miss what has no default", () => {
    expect(missingParams(SCHEMA, undefined, "needed")).toEqual({ "payload.site": "needed" });
    expect(missingParams(SCHEMA, { site: null }, "needed")).toEqual({});
  });

  it("change one at a time", () => {
    expect(withParam({ a: 1, b: 2 }, "a", 3)).toEqual({ a: 3, b: 2 });
    expect(withParam({ a: 1 }, "a", undefined)).toEqual({});
  });
});

describe("what a step is called", () => {
  const step = (id: string, more: Partial<DraftStep> = {}): DraftStep => ({ id, type: "task", needs: [], ...more });

  it("its name, its id, or what it runs while its id was drawn", () => {
    expect(titleOf(step("task12"), "clean")).toBe("clean");
    expect(titleOf(step("0"), "clean")).toBe("clean");
    expect(titleOf(step("task12"), "")).toBe("task12");
    expect(titleOf(step("prepare"), "clean")).toBe("prepare");
    expect(titleOf(step("prepare", { name: "Prepare" }), "clean")).toBe("Prepare");
    expect(isDrawn(step("branch1"))).toBe(false);
  });
});

describe("steps that wait for somebody", () => {
  const run = (stepId: string, type: string, state: string) => ({ stepId, type, state }) as StepRun;

  it("are approvals and waits for events", () => {
    const events = eventsOf([{ id: "a" }, { id: "each", body: [{ id: "go", event: "green" }] }]);
    expect([...events]).toEqual([["go", "green"]]);
    expect(isAsking(run("ask", "approval", "Running"), events)).toBe(true);
    expect(isAsking(run("ask", "approval", "Waiting"), events)).toBe(false);
    expect(isAsking(run("each[3].go", "wait", "Running"), events)).toBe(true);
    expect(isAsking(run("rest", "wait", "Running"), events)).toBe(false);
  });

  it("have names by round", () => {
    expect([ownId("a"), ownId("each[2]"), ownId("o[1].each[2].visit")]).toEqual(["a", "each", "visit"]);
    expect([ownerOf("a"), ownerOf("each[2].visit"), ownerOf("o[1].each[2].visit")]).toEqual([
      "",
      "each",
      "o[1].each",
    ]);
  });
});
