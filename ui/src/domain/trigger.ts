/** A trigger as a form holds it, and as plumd reads and writes it. */
import type { Schemas } from "@/api/client";
import { parseJson } from "./json";

export type Trigger = Schemas["TriggerView"];
export const KINDS = ["webhook", "event", "after", "mqtt"] as const;
export const TOPICS = [
  "tasks",
  "runs",
  "workflows",
  "taskDefs",
  "workers",
  "nodes",
  "apps",
  "deployments",
  "services",
  "resources",
  "kv",
  "schedules",
  "limits",
  "alerts",
] as const;
export const ENDS = ["success", "failure", "any"] as const;
export const SIGNATURES = ["standard", "github", "none"] as const;

export interface TriggerForm {
  name: string;
  description: string;
  kind: string;
  starts: "workflow" | "taskDef";
  workflowId: string;
  defId: string;
  filter: string;
  /** JSON text with `${event...}` in it; "" = the event's data. */
  payload: string;
  eventId: string;
  signature: string;
  topics: string[];
  afterId: string;
  afterOn: string;
  broker: string;
  topic: string;
  enabled: boolean;
}

export function emptyForm(): TriggerForm {
  return {
    name: "",
    description: "",
    kind: "webhook",
    starts: "workflow",
    workflowId: "",
    defId: "",
    filter: "",
    payload: "",
    eventId: "",
    signature: "standard",
    topics: ["runs"],
    afterId: "",
    afterOn: "success",
    broker: "",
    topic: "",
    enabled: true,
  };
}

export function formOf(trigger: Trigger): TriggerForm {
  return {
    ...emptyForm(),
    name: trigger.name,
    description: trigger.description,
    kind: trigger.kind,
    starts: trigger.workflowId === null ? "taskDef" : "workflow",
    workflowId: trigger.workflowId ?? "",
    defId: trigger.defId ?? "",
    filter: trigger.filter,
    payload: JSON.stringify(trigger.payload, null, 2),
    eventId: trigger.eventId,
    signature: trigger.signature ?? "standard",
    topics: [...trigger.topics],
    afterId: trigger.after?.workflowId ?? "",
    afterOn: trigger.after?.on ?? "success",
    broker: trigger.broker ?? "",
    topic: trigger.topic ?? "",
    enabled: trigger.enabled,
  };
}

/** The body to send, with the fields of its kind alone. The form has been checked. */
export function bodyOf(form: TriggerForm): Record<string, unknown> {
  const payload = parseJson(form.payload);
  const own: Record<string, Record<string, unknown>> = {
    webhook: { signature: form.signature, eventId: form.eventId },
    event: { topics: form.topics },
    after: { after: { workflowId: form.afterId, on: form.afterOn } },
    mqtt: { broker: form.broker, topic: form.topic, eventId: form.eventId },
  };
  return {
    name: form.name,
    description: form.description,
    kind: form.kind,
    ...(form.starts === "workflow" ? { workflowId: form.workflowId } : { defId: form.defId }),
    filter: form.filter,
    ...(payload.ok && payload.value !== undefined ? { payload: payload.value } : {}),
    enabled: form.enabled,
    ...own[form.kind],
  };
}

export type FaultCode = "required" | "json";

/** What is wrong with the values, by field. */
export function faultsOf(form: TriggerForm): Record<string, FaultCode> {
  const faults: Record<string, FaultCode> = {};
  const need = (field: string, value: string) => {
    if (value.trim() === "") faults[field] = "required";
  };
  need("name", form.name);
  if (form.starts === "workflow") need("workflowId", form.workflowId);
  else need("defId", form.defId);
  if (form.kind === "event" && form.topics.length === 0) faults["topics"] = "required";
  if (form.kind === "after") need("after", form.afterId);
  if (form.kind === "mqtt") {
    need("broker", form.broker);
    need("topic", form.topic);
  }
  if (!parseJson(form.payload).ok) faults["payload"] = "json";
  return faults;
}
