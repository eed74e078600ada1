/** A workflow while somebody writes it. Nothing here changes what it is given. */
import type { Schemas } from "@/api/client";
import type { Spot } from "./spot";

export type StepType =
  | "task"
  | "branch"
  | "parallel"
  | "loop"
  | "map"
  | "workflow"
  | "wait"
  | "approval";
export const STEP_TYPES: readonly StepType[] = [
  "task",
  "branch",
  "parallel",
  "loop",
  "map",
  "workflow",
  "wait",
  "approval",
];
export const TRIGGER_RULES = [
  "all_success",
  "one_success",
  "all_failed",
  "one_failed",
  "all_done",
  "none_failed",
] as const;

/** on: the end that counts; "" = any, and a failure then skips what follows. */
export interface Need {
  readonly step: string;
  readonly on: string;
}

type Written = Omit<
  Partial<Schemas["StepBody"]>,
  "id" | "type" | "needs" | "body" | "ord" | "task" | "compensate"
>;

/** What undoes a step: a task, workflow, loop or map, as the API has it. */
export type Undo = Omit<Partial<Schemas["StepBody"]>, "task"> & {
  readonly task?: Readonly<Record<string, unknown>>;
};

/** A step with its id and needs written out, where the API lets them be understood. */
export interface DraftStep extends Written {
  readonly id: string;
  readonly type: StepType;
  readonly needs: readonly Need[];
  readonly body?: readonly DraftStep[];
  readonly task?: Readonly<Record<string, unknown>>;
  readonly compensate?: Undo;
}

export interface Draft {
  readonly name: string;
  readonly description: string;
  readonly timeoutSec: number;
  readonly params?: unknown;
  readonly result?: unknown;
  readonly steps: readonly DraftStep[];
  readonly onFailure: readonly DraftStep[];
}

/** "steps" or "onFailure", then the ids of the loops and maps that one is inside of. */
export type ScopePath = readonly string[];

export type { Spot };

export const EMPTY_DRAFT: Draft = {
  name: "",
  description: "",
  timeoutSec: 0,
  steps: [],
  onFailure: [],
};
const WITH_BODY: ReadonlySet<string> = new Set(["loop", "map"]);

export function hasBody(type: string): boolean {
  return WITH_BODY.has(type);
}

const UNDOABLE: ReadonlySet<string> = new Set(["task", "workflow", "loop", "map"]);

/** Whether a step of this type can have something that undoes it. */
export function canBeUndone(type: string): boolean {
  return UNDOABLE.has(type);
}

/** What the form can show of it; other: what only the text can say. */
export function undoKind(undo: Undo | undefined): "none" | "task" | "workflow" | "other" {
  if (undo === undefined) return "none";
  const type = undo.type ?? "task";
  return type === "task" || type === "workflow" ? type : "other";
}

/** The same, changed; what was taken back is left out. */
export function undoOf(undo: Undo | undefined, patch: Partial<Undo>): Undo {
  return Object.fromEntries(
    Object.entries({ ...undo, ...patch }).filter(
      ([key, value]) => value !== undefined && (value !== "" || key === "workflow"),
    ),
  );
}

/* ------------------------------------------------------------ to and from the API's form */

interface StepIn extends Omit<Partial<Schemas["StepBody"]>, "needs" | "body"> {
  readonly needs?: readonly (string | { readonly step: string; readonly on?: string })[];
  readonly body?: readonly StepIn[];
}

interface WorkflowIn {
  readonly name?: string;
  readonly description?: string;
  readonly timeoutSec?: number;
  readonly params?: unknown;
  readonly result?: unknown;
  readonly steps?: readonly StepIn[];
  readonly onFailure?: readonly StepIn[];
}

/** A workflow as the API answers it, for writing on. */
export function draftOf(from: WorkflowIn): Draft {
  return {
    name: from.name ?? "",
    description: from.description ?? "",
    timeoutSec: from.timeoutSec ?? 0,
    ...(from.params === undefined ? {} : { params: from.params }),
    ...(from.result === undefined ? {} : { result: from.result }),
    steps: stepsIn(from.steps ?? []),
    onFailure: stepsIn(from.onFailure ?? []),
  };
}

function stepsIn(given: readonly StepIn[]): DraftStep[] {
  const sorted = given
    .map((step, place) => ({ step, place }))
    .sort((a, b) => (a.step.ord ?? 0) - (b.step.ord ?? 0) || a.place - b.place)
    .map((one) => one.step);
  const ids = sorted.map((step, place) => step.id ?? String(place));
  const chained = sorted.every((step) => step.needs === undefined);
  return sorted.map((step, place) => {
    const { type, needs, body, task } = step;
    const before = ids[place - 1];
    return {
      ...without(step, ["ord", "body", "task"]),
      id: ids[place] ?? "",
      type: (type ?? "task") as StepType,
      needs: chained
        ? before === undefined
          ? []
          : [{ step: before, on: "" }]
        : (needs ?? []).map((need) =>
            typeof need === "string" ? { step: need, on: "" } : { step: need.step, on: need.on ?? "" },
          ),
      ...(body === undefined ? {} : { body: stepsIn(body) }),
      ...(task === undefined ? {} : { task: { ...task } }),
    };
  });
}

/** A draft as the API takes it; what goes without saying is left out. */
export function bodyOf(draft: Draft): Record<string, unknown> {
  return {
    name: draft.name,
    ...(draft.description === "" ? {} : { description: draft.description }),
    ...(draft.params === undefined ? {} : { params: draft.params }),
    ...(draft.timeoutSec === 0 ? {} : { timeoutSec: draft.timeoutSec }),
    steps: stepsOut(draft.steps),
    ...(draft.result === undefined ? {} : { result: draft.result }),
    ...(draft.onFailure.length === 0 ? {} : { onFailure: stepsOut(draft.onFailure) }),
  };
}

function without<T extends object, K extends keyof T>(from: T, keys: readonly K[]): Omit<T, K> {
  const left: Partial<T> = { ...from };
  for (const key of keys) Reflect.deleteProperty(left, key);
  return left as Omit<T, K>;
}

function isChain(steps: readonly DraftStep[]): boolean {
  return steps.every((step, place) => {
    const [need, ...more] = step.needs;
    if (place === 0) return need === undefined;
    return more.length === 0 && need?.on === "" && need.step === steps[place - 1]?.id;
  });
}

function stepsOut(steps: readonly DraftStep[]): Record<string, unknown>[] {
  const chained = isChain(steps);
  const apart = steps.every((step) => step.needs.length === 0);
  return steps.map((step, place) => {
    const { id, type, needs, body, ...rest } = step;
    const said = Object.entries(rest).filter(
      ([, value]) => value !== undefined && value !== null && value !== "",
    );
    const own = needs.map((need) => (need.on === "" ? need.step : { ...need }));
    return {
      ...(id === String(place) ? {} : { id }),
      ...(type === "task" ? {} : { type }),
      ...(chained || (own.length === 0 && !apart) ? {} : { needs: own }),
      ...Object.fromEntries(said),
      ...(body === undefined ? {} : { body: stepsOut(body) }),
    };
  });
}

/* ------------------------------------------------------------ looking */

/** The steps of a scope; undefined when there is no such scope. */
export function stepsAt(draft: Draft, path: ScopePath): readonly DraftStep[] | undefined {
  const [root, ...inside] = path;
  let steps: readonly DraftStep[] | undefined =
    root === "onFailure" ? draft.onFailure : draft.steps;
  for (const id of inside) {
    const owner: DraftStep | undefined = steps?.find((step) => step.id === id);
    steps = owner === undefined || !hasBody(owner.type) ? undefined : (owner.body ?? []);
  }
  return steps;
}

/** Every step with its scope, outer ones first. */
export function allSteps(draft: Draft): { step: DraftStep; path: ScopePath }[] {
  const walk = (steps: readonly DraftStep[], path: ScopePath): { step: DraftStep; path: ScopePath }[] =>
    steps.flatMap((step) => [{ step, path }, ...walk(step.body ?? [], [...path, step.id])]);
  return [...walk(draft.steps, ["steps"]), ...walk(draft.onFailure, ["onFailure"])];
}

/** Where a field of the API's form is, like `steps[2].body[0].when`. id "": of the workflow itself. */
export interface Place {
  readonly path: ScopePath;
  readonly id: string;
  readonly field: string;
}

export function placeOf(draft: Draft, field: string): Place {
  const whole = { path: ["steps"], id: "", field };
  const begin = /^(steps|onFailure)\[(\d+)\]\.?/.exec(field);
  if (begin === null) return whole;
  let path: string[] = [begin[1] ?? "steps"];
  let index = Number(begin[2]);
  let rest = field.slice(begin[0].length);
  for (;;) {
    const step = stepsAt(draft, path)?.[index];
    if (step === undefined) return whole;
    const inner = /^body\[(\d+)\]\.?/.exec(rest);
    if (inner === null) return { path, id: step.id, field: rest };
    path = [...path, step.id];
    index = Number(inner[1]);
    rest = rest.slice(inner[0].length);
  }
}

/** A name for a new step that no other has. */
export function freeId(draft: Draft, stem: string): string {
  const taken = new Set(allSteps(draft).map((one) => one.step.id));
  for (let n = 1; ; n += 1) if (!taken.has(`${stem}${n}`)) return `${stem}${n}`;
}

/** Whether a step's id was drawn for it, and says nothing. */
export function isDrawn(step: DraftStep): boolean {
  return /^\d+$/.test(step.id) || new RegExp(`^${step.type}\\d+$`).test(step.id);
}

/** What a step is called: by its name, its id, or, while that was drawn, by what it runs. */
export function titleOf(step: DraftStep, runs: string): string {
  return step.name || (isDrawn(step) ? runs : "") || step.id;
}

/* ------------------------------------------------------------ changing */

/** The draft with other steps in a scope. */
export function withSteps(draft: Draft, path: ScopePath, steps: readonly DraftStep[]): Draft {
  const inside = (all: readonly DraftStep[], ids: ScopePath): readonly DraftStep[] => {
    const [id, ...deeper] = ids;
    if (id === undefined) return steps;
    return all.map((one) => (one.id === id ? { ...one, body: inside(one.body ?? [], deeper) } : one));
  };
  const [root, ...ids] = path;
  return root === "onFailure"
    ? { ...draft, onFailure: inside(draft.onFailure, ids) }
    : { ...draft, steps: inside(draft.steps, ids) };
}

/** A new step; after: the id of the one that it shall follow, "" = none. Answers its id too. */
export function added(
  draft: Draft,
  path: ScopePath,
  type: StepType,
  { after = "", at, on = "" }: { after?: string; at?: Spot; on?: string } = {},
): [Draft, string] {
  const id = freeId(draft, type);
  const steps = stepsAt(draft, path) ?? [];
  const source = steps.find((one) => one.id === after);
  const step: DraftStep = {
    id,
    type,
    needs: source === undefined ? [] : [{ step: after, on }],
    ...(hasBody(type) ? { body: [] } : {}),
    ...(at === undefined ? {} : { position: at }),
  };
  return [withSteps(draft, path, [...steps, step]), id];
}

/** Without these steps, and without what asked for them. */
export function removed(draft: Draft, path: ScopePath, ids: readonly string[]): Draft {
  const gone = new Set(ids);
  const left = (stepsAt(draft, path) ?? [])
    .filter((one) => !gone.has(one.id))
    .map((one) =>
      one.needs.some((need) => gone.has(need.step))
        ? { ...one, needs: one.needs.filter((need) => !gone.has(need.step)) }
        : one,
    );
  return withSteps(draft, path, left);
}

/** Other fields of a step; undefined takes one away. */
export function patched(
  draft: Draft,
  path: ScopePath,
  id: string,
  patch: Partial<DraftStep>,
): Draft {
  const steps = (stepsAt(draft, path) ?? []).map((one) =>
    one.id === id ? (cleaned({ ...one, ...patch }) as unknown as DraftStep) : one,
  );
  return withSteps(draft, path, steps);
}

function cleaned(value: object): Record<string, unknown> {
  return Object.fromEntries(Object.entries(value).filter(([, one]) => one !== undefined));
}

/** With an edge more; said twice it is the same. */
export function connected(draft: Draft, path: ScopePath, from: string, to: string, on: string): Draft {
  const step = stepsAt(draft, path)?.find((one) => one.id === to);
  if (step === undefined || from === to) return draft;
  if (step.needs.some((need) => need.step === from && need.on === on)) return draft;
  return patched(draft, path, to, { needs: [...step.needs, { step: from, on }] });
}

/** Where steps stand. */
export function placed(draft: Draft, path: ScopePath, spots: ReadonlyMap<string, Spot>): Draft {
  const steps = (stepsAt(draft, path) ?? []).map((one) => {
    const spot = spots.get(one.id);
    return spot === undefined ? one : { ...one, position: spot };
  });
  return withSteps(draft, path, steps);
}

/** Without places, so that the layout finds them. */
export function unplaced(draft: Draft, path: ScopePath): Draft {
  const steps = stepsAt(draft, path) ?? [];
  return withSteps(draft, path, steps.map((one) => without(one, ["position"])));
}

/** Under another name, also where expressions speak of it. */
export function renamed(draft: Draft, path: ScopePath, from: string, to: string): Draft {
  const steps = (stepsAt(draft, path) ?? []).map((one) => ({
    ...one,
    id: one.id === from ? to : one.id,
    needs: one.needs.map((need) => (need.step === from ? { ...need, step: to } : need)),
  }));
  const moved = withSteps(draft, path, steps);
  if (to === "") return moved;
  const plain = /^[\p{L}_][\p{L}\p{N}_]*$/u;
  const quoted = (id: string) => `steps[${JSON.stringify(id)}]`;
  const ways = plain.test(from) ? [["steps", from].join("."), quoted(from)] : [quoted(from)];
  const literal = ways.map((way) => way.replaceAll(/[$()*+./?[\\\]^{|}]/g, "\\$&")).join("|");
  const spoken = new RegExp(`(?<![\\p{L}\\p{N}_.])(?:${literal})(?![\\p{L}\\p{N}_])`, "gu");
  const name = plain.test(to) ? ["steps", to].join(".") : quoted(to);
  return { ...moved, ...(mapTexts({ ...moved, name: "" }, spoken, name) as Draft), name: moved.name };
}

function mapTexts(value: unknown, find: RegExp, put: string): unknown {
  if (typeof value === "string") return value.replaceAll(find, () => put);
  if (Array.isArray(value)) return value.map((one) => mapTexts(one, find, put));
  if (typeof value !== "object" || value === null) return value;
  return Object.fromEntries(
    Object.entries(value).map(([key, one]) => [key, mapTexts(one, find, put)]),
  );
}

/** Whether an edge would close a circle. */
export function closesCircle(steps: readonly DraftStep[], from: string, to: string): boolean {
  const needs = new Map(steps.map((one) => [one.id, one.needs.map((need) => need.step)]));
  const seen = new Set<string>();
  const waiting = [from];
  for (let at = waiting.pop(); at !== undefined; at = waiting.pop()) {
    if (at === to) return true;
    if (seen.has(at)) continue;
    seen.add(at);
    waiting.push(...(needs.get(at) ?? []));
  }
  return false;
}

/* ------------------------------------------------------------ what is missing */

/** A fault by its place. key: of its message. */
export interface Fault extends Place {
  readonly key: "required" | "json" | "noSteps" | "noBody" | "oneOf";
}

/** What must be said and is not; the rest plumd knows. */
export function missing(draft: Draft): Fault[] {
  const found: Fault[] = [];
  const needed = (path: ScopePath, id: string, field: string, key: Fault["key"] = "required") =>
    found.push({ path, id, field, key });
  if (draft.name.trim() === "") needed(["steps"], "", "name");
  for (const field of ["params", "result"] as const)
    if (isTornJson(draft[field])) needed(["steps"], "", field, "json");
  if (draft.steps.length === 0) needed(["steps"], "", "steps", "noSteps");
  for (const { step, path } of allSteps(draft)) {
    const { id } = step;
    for (const field of ["payload", "items", "result"] as const)
      if (isTornJson(step[field])) needed(path, id, field, "json");
    if (step.type === "task" && !step.definitionId && step.task === undefined)
      needed(path, id, "definitionId");
    const undo = step.compensate;
    if (isTornJson(undo?.payload)) needed(path, id, "compensate.payload", "json");
    if (undoKind(undo) === "task" && !undo?.definitionId && undo?.task === undefined)
      needed(path, id, "compensate.definitionId");
    if (undoKind(undo) === "workflow" && !undo?.workflow) needed(path, id, "compensate.workflow");
    if (step.type === "branch" && !step.condition) needed(path, id, "condition");
    if (step.type === "workflow" && !step.workflow) needed(path, id, "workflow");
    if (step.type === "map" && step.items === undefined) needed(path, id, "items");
    if (hasBody(step.type) && (step.body ?? []).length === 0)
      needed(path, id, "body", "noBody");
    if (
      step.type === "loop" &&
      [step.count, step.items, step.while, step.until].every((one) => one === undefined || one === "")
    )
      needed(path, id, "count", "oneOf");
    if (
      step.type === "wait" &&
      [step.seconds, step.until, step.event].every((one) => one === undefined || one === "")
    )
      needed(path, id, "seconds", "oneOf");
  }
  return found;
}

/** Whether a text was meant as JSON and is none. */
function isTornJson(value: unknown): boolean {
  return typeof value === "string" && /^\s*[[{]/.test(value);
}
