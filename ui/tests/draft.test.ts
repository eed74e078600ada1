import { describe, expect, it } from "vitest";

import {
  added,
  allSteps,
  bodyOf,
  closesCircle,
  connected,
  draftOf,
  EMPTY_DRAFT,
  missing,
  placeOf,
  removed,
  renamed,
  stepsAt,
  undoKind,
  undoOf,
} from "@/domain/draft";
import { layered, layout, spotsOf } from "@/domain/layout";

const GRAPH = {
  name: "check",
  steps: [
    { id: "measure", definitionId: "d1" },
    { id: "high", type: "branch", needs: ["measure"], condition: "steps.measure.result.n > 10" },
    { id: "cool", definitionId: "d1", needs: [{ step: "high", on: "true" }] },
    {
      id: "each",
      type: "map",
      needs: ["measure"],
      items: "${steps.measure.result.rows}",
      body: [{ id: "visit", definitionId: "d2", payload: "${item}" }],
    },
  ],
};

describe("a draft", () => {
  it("says what it was made of", () => {
    expect(bodyOf(draftOf(GRAPH))).toEqual({
      ...GRAPH,
      steps: GRAPH.steps.map((one) =>
        one.body ? { ...one, body: [{ ...one.body[0] }] } : one,
      ),
    });
  });

  it("leaves a chain without needs, and ids that are places", () => {
    const chain = { name: "c", steps: [{ definitionId: "a" }, { definitionId: "b" }] };
    const draft = draftOf(chain);
    expect(draft.steps.map((one) => [one.id, one.needs])).toEqual([
      ["0", []],
      ["1", [{ step: "0", on: "" }]],
    ]);
    expect(bodyOf(draft)).toEqual(chain);
  });

  it("keeps steps apart that need nothing, for a list without needs would be a chain", () => {
    const apart = { name: "p", steps: [{ id: "a", needs: [] }, { id: "b", needs: [] }] };
    expect(bodyOf(draftOf(apart))).toEqual(apart);
  });

  it("reads steps in their order", () => {
    const steps = [
      { id: "b", ord: 2 },
      { id: "a", ord: 1 },
    ];
    expect(draftOf({ name: "o", steps }).steps.map((one) => one.id)).toEqual(["a", "b"]);
  });

  it("gives a new step a free id and what it follows", () => {
    const [draft, id] = added(draftOf(GRAPH), ["steps", "each"], "task", { after: "visit" });
    expect(id).toBe("task1");
    expect(stepsAt(draft, ["steps", "each"])?.[1]?.needs).toEqual([{ step: "visit", on: "" }]);
    expect(added(draft, ["steps"], "task")[1]).toBe("task2");
  });

  it("removes a step with what asked for it", () => {
    const draft = removed(draftOf(GRAPH), ["steps"], ["high"]);
    expect(draft.steps.find((one) => one.id === "cool")?.needs).toEqual([]);
  });

  it("renames a step wherever it is spoken of, and no other", () => {
    const more = { ...GRAPH, description: "steps.measured", result: "${steps.measure.result}" };
    const draft = renamed(draftOf(more), ["steps"], "measure", "two words");
    expect(draft.steps[1]).toMatchObject({
      needs: [{ step: "two words", on: "" }],
      condition: 'steps["two words"].result.n > 10',
    });
    expect(draft.result).toBe('${steps["two words"].result}');
    expect(draft.description).toBe("steps.measured");
    const back = renamed(draft, ["steps"], "two words", "测量");
    expect(back.steps[1]).toMatchObject({ condition: "steps.测量.result.n > 10" });
    const again = renamed(back, ["steps"], "测量", "measure");
    expect(again).toEqual(renamed(draft, ["steps"], "two words", "measure"));
  });

  it("takes an edge once, and knows what would close a circle", () => {
    const draft = draftOf(GRAPH);
    expect(connected(draft, ["steps"], "high", "cool", "true")).toBe(draft);
    expect(closesCircle(draft.steps, "cool", "measure")).toBe(true);
    expect(closesCircle(draft.steps, "cool", "each")).toBe(false);
  });

  it("finds the place of a field", () => {
    const draft = draftOf(GRAPH);
    expect(placeOf(draft, "steps[3].body[0].payload")).toEqual({
      path: ["steps", "each"],
      id: "visit",
      field: "payload",
    });
    expect(placeOf(draft, "steps[1]")).toMatchObject({ id: "high", field: "" });
    expect(placeOf(draft, "name")).toMatchObject({ id: "", field: "name" });
  });

  it("tells what is missing, also inside", () => {
    expect(missing(draftOf(GRAPH))).toEqual([]);
    expect(missing(EMPTY_DRAFT).map((one) => one.field)).toEqual(["name", "steps"]);
    const [draft] = added(draftOf(GRAPH), ["steps", "each"], "wait");
    expect(missing(draft)).toMatchObject([{ path: ["steps", "each"], id: "wait1", key: "oneOf" }]);
    const torn = draftOf({ name: "t", steps: [{ definitionId: "d", payload: '{"a": ' }] });
    expect(missing(torn)).toMatchObject([{ field: "payload", key: "json" }]);
    expect(allSteps(draft)).toHaveLength(6);
  });
});

describe("a layout", () => {
  const ids = Array.from({ length: 2_000 }, (_none, n) => `s${n}`);
  const links = ids
    .slice(1)
    .map((id, n): [string, string] => [ids[Math.floor(n / 3)] ?? "", id]);

  it("puts what follows further on, in both ways, and nothing upon another", () => {
    const small = ids.slice(0, 40);
    const inside = links.filter(([, to]) => small.includes(to));
    for (const spots of [layout(small, inside), layered(small, inside)]) {
      for (const [from, to] of inside)
        expect(spots.get(to)?.x).toBeGreaterThan(spots.get(from)?.x ?? 0);
      expect(new Set([...spots.values()].map((one) => `${one.x},${one.y}`)).size).toBe(40);
    }
  });

  it("takes thousands, and edges that close a circle", () => {
    const spots = layout(ids, [...links, ["s1999", "s0"]]);
    expect(spots.size).toBe(2_000);
    expect(new Set([...spots.values()].map((one) => `${one.x},${one.y}`)).size).toBe(2_000);
  });

  it("keeps where somebody put a step, and finds room for the others", () => {
    const spots = spotsOf([
      { id: "a", needs: [], position: { x: 5, y: 7 } },
      { id: "b", needs: [{ step: "a" }] },
    ]);
    expect(spots.get("a")).toEqual({ x: 5, y: 7 });
    expect(spots.get("b")?.y).toBeGreaterThan(60);
  });
});

describe("what undoes a step", () => {
  const JOURNEY = {
    name: "journey",
    steps: [
      {
        id: "flight",
        task: { name: "book" },
        compensate: {
          task: { name: "cancel", maxRetries: 3 },
          payload: { booking: "${steps.flight.result.id}" },
          when: "steps.flight.state != 'Skipped'",
        },
      },
      {
        id: "hotels",
        type: "map",
        items: 3,
        body: [{ id: "visit", definitionId: "d2" }],
        compensate: { type: "map", items: 3, body: [{ id: "leave", definitionId: "d3" }] },
      },
    ],
  };

  it("passes through untouched, whatever it is", () => {
    expect(bodyOf(draftOf(JOURNEY as never))).toEqual(JOURNEY);
    expect(missing(draftOf(JOURNEY as never))).toEqual([]);
  });

  it("follows a new name", () => {
    const draft = renamed(draftOf(JOURNEY as never), ["steps"], "flight", "air");
    expect(stepsAt(draft, ["steps"])?.[0]?.compensate).toEqual({
      task: { name: "cancel", maxRetries: 3 },
      payload: { booking: "${steps.air.result.id}" },
      when: "steps.air.state != 'Skipped'",
    });
  });

  it("is changed field by field, and says what it lacks at its field", () => {
    const [flight, hotels] = draftOf(JOURNEY as never).steps;
    expect([undoKind(flight?.compensate), undoKind(hotels?.compensate), undoKind(undefined)]).toEqual(
      ["task", "other", "none"],
    );
    expect(undoOf(flight?.compensate, { payload: undefined, when: "" })).toEqual({
      task: { name: "cancel", maxRetries: 3 },
    });
    const without = { name: "w", steps: [{ id: "a", task: { name: "x" }, compensate: {} }] };
    expect(missing(draftOf(without as never))).toEqual([
      { path: ["steps"], id: "a", field: "compensate.definitionId", key: "required" },
    ]);
    expect(placeOf(draftOf(without as never), "steps[0].compensate.payload")).toEqual({
      path: ["steps"],
      id: "a",
      field: "compensate.payload",
    });
  });
});
