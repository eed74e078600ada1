/** What a list of tasks shows: kept in the page's address, so that a view can be sent to somebody. */
import type { LocationQuery } from "vue-router";

import { isOver, TASK_STATES } from "./state";

export type BulkAction = "cancel" | "rerun" | "delete";

export interface TaskFilter {
  readonly states: readonly string[];
  readonly name: string;
  readonly workerId: string;
  readonly executor: string;
  readonly label: string;
  readonly errorCode: string;
  readonly defId: string;
  readonly runId: string;
  /** Seconds back from now, 0 = no bound. */
  readonly withinSec: number;
}

export const EMPTY_FILTER: TaskFilter = {
  states: [],
  name: "",
  workerId: "",
  executor: "",
  label: "",
  errorCode: "",
  defId: "",
  runId: "",
  withinSec: 0,
};

const TEXTS = ["name", "workerId", "executor", "label", "errorCode", "defId", "runId"] as const;

export function filterOfQuery(query: LocationQuery): TaskFilter {
  const text = (key: string) => {
    const value = query[key];
    return typeof value === "string" ? value : "";
  };
  const known: readonly string[] = TASK_STATES;
  const within = Number(text("within"));
  const found: Record<string, unknown> = {
    states: text("state").split(",").filter((one) => known.includes(one)),
    withinSec: Number.isFinite(within) && within > 0 ? within : 0,
  };
  for (const key of TEXTS) found[key] = text(key);
  return found as unknown as TaskFilter;
}

export function queryOfFilter(filter: TaskFilter): Record<string, string> {
  const query: Record<string, string> = {};
  if (filter.states.length > 0) query["state"] = filter.states.join(",");
  for (const key of TEXTS) if (filter[key] !== "") query[key] = filter[key];
  if (filter.withinSec > 0) query["within"] = String(filter.withinSec);
  return query;
}

/** The query of GET /v1/tasks. now: Unix ms. */
export function askOfFilter(filter: TaskFilter, now: number): Record<string, string | number> {
  const { within, ...ask } = queryOfFilter(filter);
  return within === undefined ? ask : { ...ask, createdFrom: now - filter.withinSec * 1_000 };
}

/** The filter of a bulk action. now: Unix ms. */
export function bodyOfFilter(filter: TaskFilter, now: number): Record<string, unknown> {
  const { state, ...ask } = askOfFilter(filter, now);
  return state === undefined ? ask : { ...ask, state: filter.states };
}

export function isEmpty(filter: TaskFilter): boolean {
  return Object.keys(queryOfFilter(filter)).length === 0;
}

/** What can be done to tasks of these states together; of any states when none is given. */
export function bulkActions(states: readonly string[]): readonly BulkAction[] {
  const begun = states.length === 0 || !states.every(isOver);
  const over = states.length === 0 || states.some(isOver);
  return [...(begun ? (["cancel"] as const) : []), "rerun", ...(over ? (["delete"] as const) : [])];
}
