/** A deployment as a form holds it, and as plumd reads and writes it. */
import type { Schemas } from "@/api/client";
import { pairsOf, pairsText } from "./definition";

export type Deployment = Schemas["DeploymentView"];
export type Instance = Schemas["InstanceView"];
type Entry = Schemas["DeploymentEntry"];
type Update = Schemas["Update"];

export const RESTARTS = ["on-failure", "always", "never"] as const;
export const CHECKS = ["", "http", "tcp", "grpc"] as const;
const MB = 1_000_000;

export interface EntryForm {
  artifactUrl: string;
  startCmd: string;
  /** Anywhere that fits, or so many on each named node. */
  where: "any" | "nodes";
  replicas: number;
  /** key=value, one a line: labels that a node must have. */
  selector: string;
  nodes: { nodeId: string; count: number }[];
  /** KEY=VALUE, one a line. */
  env: string;
  restart: string;
  stopGraceSec: number;
  memoryMb: number | null;
  cpuPercent: number | null;
  check: string;
  checkPort: number;
  checkPath: string;
  failover: boolean;
  /** What the form does not show is kept. */
  known: Entry | null;
}

export interface DeploymentForm {
  name: string;
  /** key=value, one a line. */
  labels: string;
  onPartition: string;
  fenceAfterSec: number;
  entries: EntryForm[];
  update: { maxParallel: number; minHealthySec: number; deadlineSec: number; autoReturn: boolean };
  known: Update | null;
}

export function emptyEntry(): EntryForm {
  return {
    artifactUrl: "",
    startCmd: "",
    where: "any",
    replicas: 1,
    selector: "",
    nodes: [],
    env: "",
    restart: "on-failure",
    stopGraceSec: 10,
    memoryMb: null,
    cpuPercent: null,
    check: "",
    checkPort: 80,
    checkPath: "/",
    failover: true,
    known: null,
  };
}

export function emptyForm(): DeploymentForm {
  return {
    name: "",
    labels: "",
    onPartition: "keep",
    fenceAfterSec: 120,
    entries: [emptyEntry()],
    update: { maxParallel: 1, minHealthySec: 5, deadlineSec: 120, autoReturn: true },
    known: null,
  };
}

function entryForm(entry: Entry): EntryForm {
  const { replicas, limits, healthCheck } = entry;
  const any = typeof replicas === "number";
  return {
    artifactUrl: entry.artifactUrl,
    startCmd: entry.startCmd,
    where: any ? "any" : "nodes",
    replicas: any ? replicas : 1,
    selector: pairsText(entry.selector),
    nodes:
      any
        ? []
        : Object.entries(replicas).map(([nodeId, count]) => ({ nodeId, count })),
    env: pairsText(entry.env),
    restart: entry.restart,
    stopGraceSec: entry.stopGraceSec,
    memoryMb: limits.memoryBytes ? limits.memoryBytes / MB : null,
    cpuPercent: limits.cpuPercent || null,
    check: healthCheck?.kind ?? "",
    checkPort: healthCheck?.port ?? 80,
    checkPath: healthCheck?.path ?? "/",
    failover: entry.failover,
    known: entry,
  };
}

export function formOf(deployment: Deployment): DeploymentForm {
  const update = deployment.update;
  return {
    name: deployment.name,
    labels: pairsText(deployment.labels),
    onPartition: deployment.onPartition,
    fenceAfterSec: deployment.fenceAfterSec,
    entries: deployment.entries.map(entryForm),
    update: {
      maxParallel: update.maxParallel,
      minHealthySec: update.minHealthySec,
      deadlineSec: update.deadlineSec,
      autoReturn: update.autoReturn,
    },
    known: update,
  };
}

function entryBody(form: EntryForm): Record<string, unknown> {
  const known = form.known;
  // An entry goes by its name, which is its app's unless somebody gave it one.
  const sameApp = known?.artifactUrl === form.artifactUrl;
  const check =
    form.check === ""
      ? null
      : { ...known?.healthCheck, kind: form.check, port: form.checkPort, path: form.checkPath };
  return {
    ...(known?.name ? { name: known.name } : {}),
    ...(sameApp && known.sha256 ? { sha256: known.sha256 } : {}),
    ...(known ? { backoff: known.backoff } : {}),
    spread: known?.spread ?? "",
    maxPerNode: known?.maxPerNode ?? 0,
    artifactUrl: form.artifactUrl,
    startCmd: form.startCmd,
    replicas:
      form.where === "any"
        ? form.replicas
        : Object.fromEntries(form.nodes.map(({ nodeId, count }) => [nodeId, count])),
    selector: form.where === "any" ? pairsOf(form.selector) : {},
    env: pairsOf(form.env),
    restart: form.restart,
    stopGraceSec: form.stopGraceSec,
    limits: {
      ...known?.limits,
      memoryBytes: Math.round((form.memoryMb ?? 0) * MB),
      cpuPercent: form.cpuPercent ?? 0,
    },
    healthCheck: check,
    failover: form.failover,
  };
}

/** The body to send. The form has been checked. */
export function bodyOf(form: DeploymentForm): Record<string, unknown> {
  return {
    name: form.name,
    labels: pairsOf(form.labels),
    onPartition: form.onPartition,
    fenceAfterSec: form.fenceAfterSec,
    entries: form.entries.map(entryBody),
    update: { ...form.known, ...form.update },
  };
}

export type FaultCode = "required" | "pairs";

/** What is wrong with the values, by the field's path. */
export function faultsOf(form: DeploymentForm): Record<string, FaultCode> {
  const faults: Record<string, FaultCode> = {};
  if (form.name.trim() === "") faults["name"] = "required";
  if (pairsOf(form.labels) === null) faults["labels"] = "pairs";
  form.entries.forEach((entry, index) => {
    const at = `entries[${index}]`;
    if (entry.artifactUrl === "") faults[`${at}.artifactUrl`] = "required";
    if (pairsOf(entry.env) === null) faults[`${at}.env`] = "pairs";
    if (entry.where === "any" && pairsOf(entry.selector) === null)
      faults[`${at}.selector`] = "pairs";
    if (entry.where === "nodes" && entry.nodes.every((one) => one.nodeId === ""))
      faults[`${at}.replicas`] = "required";
  });
  return faults;
}

/** The programs of a deployment in one line. */
export function appsOf(deployment: Deployment): string {
  return deployment.entries
    .map((entry) => [entry.appName || entry.name, entry.appVersion].filter(Boolean).join(" "))
    .join(", ");
}

/** How many copies an entry has, all nodes together. */
export function replicasOf(entry: Entry): number {
  const { replicas } = entry;
  return typeof replicas === "number"
    ? replicas
    : Object.values(replicas).reduce((sum, count) => sum + count, 0);
}
