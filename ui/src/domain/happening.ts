/** What a line of the event log says: what happened to what, and where that can be seen. */
import type { RouteLocationRaw } from "vue-router";

import type { Schemas } from "@/api/client";
import { isState } from "./state";

export type PastEvent = Schemas["PastEvent"];

export interface Happening {
  /** A state, or a word of `happened` in the catalogue. */
  readonly what: string;
  readonly isState: boolean;
  /** What people call it; its id where it has no name. */
  readonly name: string;
  /** Beside the name, where they differ. */
  readonly id: string;
  readonly place: RouteLocationRaw | null;
}

const PLACES: Readonly<Record<string, string>> = {
  task: "task",
  run: "run",
  step: "run",
  taskDef: "taskDef",
  workflow: "workflow",
  worker: "worker",
  schedule: "schedule",
  trigger: "trigger",
  webhook: "webhook",
  resource: "device",
  node: "node",
  deployment: "deployment",
  instance: "instance",
};
/** Where an alert leads, by what happened. */
const ALERTS: Readonly<Record<string, string>> = {
  webhook_failed: "webhook",
  trigger_failed: "trigger",
  schedule_failed: "schedule",
  node_taken: "node",
};
/** Of which the first fact behind what happened is a name. */
const NAMED: ReadonlySet<string> = new Set([
  "taskDef", "workflow", "schedule", "trigger", "webhook", "deployment", "alarmRule", "app",
]);
/** Of those, what happens to them as they fire: the first fact is the slot, or the event. */
const FIRES: ReadonlySet<string> = new Set([
  "queued", "started", "skipped", "missed", "failed", "filtered",
]);

/** Of nodes, workers, devices and services: what happened is the state that they have now. */
const BECAME: Readonly<Record<string, string>> = {
  healthy: "Healthy",
  unhealthy: "Unhealthy",
  draining: "Draining",
  drained: "Draining",
  away: "Away",
  offline: "Offline",
  lost: "Lost",
};

export function happeningOf(event: PastEvent): Happening {
  const data = (event.data ?? {}) as Readonly<Record<string, unknown>>;
  const text = (key: string) => (typeof data[key] === "string" ? data[key] : "");
  const facts = (Array.isArray(data["facts"]) ? data["facts"] : []).map(String);
  const at = (name: string | undefined, id: string): RouteLocationRaw | null =>
    name === undefined || id === "" ? null : { name, params: { id } };
  const says = (word: string, name: string, id: string, place: RouteLocationRaw | null) => {
    const what = BECAME[word] ?? word;
    return {
      what,
      isState: isState(what),
      name: name || id,
      id: name === "" || name === id ? "" : id,
      place,
    };
  };
  switch (event.event) {
    case "task":
      return says(text("state"), text("name"), text("taskId"), at("task", text("taskId")));
    case "run":
      return says(text("state"), event.name, text("runId"), at("run", text("runId")));
    case "step":
      return says(
        text("state"),
        [event.name, text("stepId")].filter(Boolean).join("/"),
        text("runId"),
        at("run", text("runId")),
      );
    case "kv":
      return says(
        data["deleted"] === true ? "deleted" : "set",
        `${text("namespace")}/${text("key")}`,
        "",
        data["deleted"] === true ? null : { name: "kv", query: { ns: text("namespace") } },
      );
    case "alert":
      return says(text("id"), event.name, text("what"), at(ALERTS[text("id")], text("what")));
    case "alarm":
      return says(text("what"), facts[5] ?? facts[2] ?? "", facts[1] ?? "", at("device", facts[1] ?? ""));
    case "lock":
      return says(text("what"), `${text("id")}/${facts[1] ?? ""}`, "", { name: "locks" });
    default: {
      const fires = ["schedule", "trigger"].includes(event.event) && FIRES.has(text("what"));
      const name = event.name || (NAMED.has(event.event) && !fires ? (facts[1] ?? "") : "");
      const gone = text("what") === "deleted";
      return says(text("what"), name, text("id"), gone ? null : at(PLACES[event.event], text("id")));
    }
  }
}
