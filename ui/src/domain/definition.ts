/** A task definition as a form holds it, and as plumd reads and writes it. */
import type { TaskDef } from "@/api/client";
import { parseJson } from "./json";

export const EXECUTORS = ["embedded", "service", "os_process"] as const;
export type Executor = (typeof EXECUTORS)[number];

/** Which targets an executor can have; "" = wherever it can run. */
export const TARGET_KINDS: Readonly<Record<Executor, readonly string[]>> = {
  embedded: ["", "worker", "labels", "node", "app", "deployment", "builtin"],
  service: ["service"],
  os_process: ["", "node"],
};

export interface DefinitionForm {
  name: string;
  description: string;
  executor: Executor;
  targetKind: string;
  targetRef: string;
  /** JSON text. */
  payload: string;
  command: string;
  /** One a line. */
  args: string;
  workingDir: string;
  /** KEY=VALUE, one a line. */
  env: string;
  memoryMb: number | null;
  cpus: number | null;
  servicePath: string;
  serviceProtocol: string;
  serviceVersion: string;
  servicePort: string;
  timeoutSec: number | null;
  queueTimeoutSec: number;
  maxRetries: number;
  priority: number;
  onLost: string;
  /** key=value, one a line. */
  labels: string;
  overridable: string[];
  concurrencyKey: string;
  /** 0 = none of its own. */
  concurrencyLimit: number;
  onConflict: string;
}

export const EMPTY_FORM: Readonly<DefinitionForm> = {
  name: "",
  description: "",
  executor: "embedded",
  targetKind: "",
  targetRef: "",
  payload: "",
  command: "",
  args: "",
  workingDir: "",
  env: "",
  memoryMb: null,
  cpus: null,
  servicePath: "",
  serviceProtocol: "",
  serviceVersion: "",
  servicePort: "",
  timeoutSec: null,
  queueTimeoutSec: 0,
  maxRetries: 0,
  priority: 5,
  onLost: "retry",
  labels: "",
  overridable: [],
  concurrencyKey: "",
  concurrencyLimit: 0,
  onConflict: "queue",
};

const SERVICE_LABELS = ["servicePath", "serviceProtocol", "serviceVersion", "servicePort"] as const;
const MB = 1_000_000;

type Json = Record<string, unknown>;

function isObject(value: unknown): value is Json {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

export function pairsText(pairs: Readonly<Json>): string {
  return Object.entries(pairs)
    .map(([key, value]) => `${key}=${String(value)}`)
    .join("\n");
}

/** The pairs of a text with one key=value a line; null when a line is none. */
export function pairsOf(text: string): Record<string, string> | null {
  const pairs: Record<string, string> = {};
  for (const line of text.split("\n").filter((one) => one.trim() !== "")) {
    const cut = line.indexOf("=");
    if (cut < 1) return null;
    pairs[line.slice(0, cut).trim()] = line.slice(cut + 1).trim();
  }
  return pairs;
}

export function formOf(def: TaskDef): DefinitionForm {
  const form: DefinitionForm = { ...EMPTY_FORM };
  form.name = def.name;
  form.description = def.description;
  form.executor = def.executor as Executor;
  form.targetKind = def.targetKind;
  form.targetRef = def.targetRef;
  form.timeoutSec = def.timeoutSec;
  form.queueTimeoutSec = def.queueTimeoutSec;
  form.maxRetries = def.maxRetries;
  form.priority = def.priority;
  form.onLost = def.onLost;
  form.overridable = [...def.overridable];
  form.concurrencyKey = def.concurrencyKey;
  form.concurrencyLimit = def.concurrencyLimit;
  form.onConflict = def.onConflict;
  const labels: Json = { ...def.labels };
  if (form.executor === "service")
    for (const key of SERVICE_LABELS) {
      form[key] = typeof labels[key] === "string" ? labels[key] : "";
      Reflect.deleteProperty(labels, key);
    }
  form.labels = pairsText(labels);
  const payload = def.defaultPayload;
  if (form.executor === "os_process" && isObject(payload)) {
    form.command = typeof payload["command"] === "string" ? payload["command"] : "";
    form.args = Array.isArray(payload["args"]) ? payload["args"].join("\n") : "";
    form.workingDir = typeof payload["workingDir"] === "string" ? payload["workingDir"] : "";
    form.env = isObject(payload["env"]) ? pairsText(payload["env"]) : "";
    const limits = isObject(payload["limits"]) ? payload["limits"] : {};
    form.memoryMb = typeof limits["memoryBytes"] === "number" ? limits["memoryBytes"] / MB : null;
    form.cpus = typeof limits["cpus"] === "number" ? limits["cpus"] : null;
    if (payload["input"] !== undefined && payload["input"] !== null)
      form.payload = JSON.stringify(payload["input"], null, 2);
  } else if (payload !== null && payload !== undefined)
    form.payload = JSON.stringify(payload, null, 2);
  return form;
}

/** The body to send. The form has been checked. known: what the form does not show is kept. */
export function bodyOf(form: DefinitionForm, known: TaskDef | null): Json {
  const labels: Record<string, string> = pairsOf(form.labels) ?? {};
  if (form.executor === "service")
    for (const key of SERVICE_LABELS) if (form[key] !== "") labels[key] = form[key];
  const body: Json = {
    name: form.name,
    description: form.description,
    executor: form.executor,
    targetKind: form.targetKind,
    targetRef: form.targetRef,
    labels,
    queueTimeoutSec: form.queueTimeoutSec,
    maxRetries: form.maxRetries,
    priority: form.priority,
    onLost: form.onLost,
    overridable: form.executor === "os_process" ? form.overridable : [],
    ...(form.concurrencyKey === ""
      ? {}
      : {
          concurrencyKey: form.concurrencyKey,
          concurrencyLimit: form.concurrencyLimit,
          onConflict: form.onConflict,
        }),
  };
  if (form.timeoutSec !== null) body["timeoutSec"] = form.timeoutSec;
  const parsed = parseJson(form.payload);
  const value = parsed.ok ? parsed.value : undefined;
  if (form.executor === "os_process") body["defaultPayload"] = commandOf(form, value, known);
  else if (value !== undefined) body["defaultPayload"] = value;
  return body;
}

function commandOf(form: DefinitionForm, input: unknown, known: TaskDef | null): Json {
  const before = isObject(known?.defaultPayload) ? known.defaultPayload : {};
  const limits: Json = isObject(before["limits"]) ? { ...before["limits"] } : {};
  setOrDelete(limits, "memoryBytes", form.memoryMb === null ? null : Math.round(form.memoryMb * MB));
  setOrDelete(limits, "cpus", form.cpus);
  const command: Json = { ...before, command: form.command };
  setOrDelete(command, "args", form.args === "" ? null : form.args.split("\n"));
  setOrDelete(command, "workingDir", form.workingDir || null);
  setOrDelete(command, "env", form.env.trim() === "" ? null : pairsOf(form.env));
  setOrDelete(command, "limits", Object.keys(limits).length === 0 ? null : limits);
  setOrDelete(command, "input", input ?? null);
  return command;
}

function setOrDelete(object: Json, key: string, value: unknown): void {
  if (value === null) Reflect.deleteProperty(object, key);
  else object[key] = value;
}

export type FaultCode = "required" | "json" | "pairs" | "absolute" | "labels";

/** What is wrong with a form, by field. */
export function faultsOf(form: DefinitionForm): Partial<Record<string, FaultCode>> {
  const faults: Partial<Record<string, FaultCode>> = {};
  if (form.name.trim() === "") faults["name"] = "required";
  if (form.targetKind !== "" && form.targetRef.trim() === "") faults["targetRef"] = "required";
  if (form.targetKind === "labels" && form.targetRef !== "")
    if (form.targetRef.split(",").some((pair) => !pair.includes("="))) faults["targetRef"] = "labels";
  if (!parseJson(form.payload).ok) faults["defaultPayload"] = "json";
  if (pairsOf(form.labels) === null) faults["labels"] = "pairs";
  if (form.executor === "os_process") {
    if (form.command.trim() === "") faults["command"] = "required";
    if (pairsOf(form.env) === null) faults["env"] = "pairs";
    if (form.workingDir !== "" && !form.workingDir.startsWith("/"))
      faults["workingDir"] = "absolute";
  }
  return faults;
}
