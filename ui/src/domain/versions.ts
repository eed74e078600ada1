/** What changed between two versions of a workflow, by step. */
import type { Schemas } from "@/api/client";
import { edgesOf, idsOf } from "./graph";
import type { GraphEdge, GraphStep } from "./graph";

export type Change = Schemas["Change"];
export type Mark = "added" | "removed" | "changed";

/** step: "" = of the workflow itself. changes: of fields, their paths within the step. */
export interface StepChanges {
  readonly step: string;
  readonly mark: Mark;
  readonly changes: readonly Change[];
}

const OF_STEP = /^(?:steps|onFailure)\[([^\]]*)\]\.?/;
const INSIDE = /^body\[([^\]]*)\]\.?/;

/** The step that a path is in, named like `each/visit` inside a body, and what of it. */
function splitPath(path: string): { step: string; field: string } {
  const begin = OF_STEP.exec(path);
  if (begin === null) return { step: "", field: path };
  const names = [begin[1] ?? ""];
  let rest = path.slice(begin[0].length);
  for (let inner = INSIDE.exec(rest); inner !== null; inner = INSIDE.exec(rest)) {
    names.push(inner[1] ?? "");
    rest = rest.slice(inner[0].length);
  }
  return { step: names.join("/"), field: rest };
}

/** Changes by step, in the order in which they are told. Where things stand on a canvas is left out. */
export function byStep(changes: readonly Change[]): StepChanges[] {
  const found = new Map<string, { mark: Mark; changes: Change[] }>();
  for (const change of changes) {
    const { step, field } = splitPath(change.path);
    if (/^position\b/.test(field)) continue;
    const known = found.get(step) ?? { mark: "changed" as Mark, changes: [] };
    if (step !== "" && field === "" && change.what !== "changed")
      known.mark = change.what === "added" ? "added" : "removed";
    known.changes.push({ ...change, path: field });
    found.set(step, known);
  }
  return [...found].map(([step, one]) => ({ step, ...one }));
}

interface Version {
  readonly steps: readonly {
    readonly id?: string;
    readonly name: string;
    readonly needs?: readonly (string | { readonly step: string; readonly on: string })[];
  }[];
}

/** Both versions as one picture: the newer one, with the steps that it has no more. */
export function merged(
  older: Version,
  newer: Version,
  changes: readonly StepChanges[],
): { steps: GraphStep[]; edges: GraphEdge[] } {
  const marks = new Map<string, Mark>();
  for (const one of changes) {
    const [outer = "", ...inner] = one.step.split("/");
    if (outer !== "") marks.set(outer, inner.length > 0 ? (marks.get(outer) ?? "changed") : one.mark);
  }
  const steps: GraphStep[] = [];
  const have = new Set<string>();
  for (const version of [newer, older]) {
    const ids = idsOf(version.steps);
    version.steps.forEach((step, n) => {
      const id = ids[n] ?? "";
      if (have.has(id)) return;
      have.add(id);
      const mark = marks.get(id);
      steps.push({ id, title: step.name || id, ...(mark === undefined ? {} : { mark }) });
    });
  }
  const kept = new Set(idsOf(newer.steps));
  const edges = [
    ...edgesOf(newer.steps),
    ...edgesOf(older.steps).filter((edge) => !kept.has(edge.from) || !kept.has(edge.to)),
  ];
  return { steps, edges };
}
