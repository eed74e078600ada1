/** Alarms in the order in which they want to be seen, and rules as a form holds them. */
import type { Schemas } from "@/api/client";

export type Alarm = Schemas["AlarmView"];
export type Rule = Schemas["Rule"];
export type Op = Rule["op"];
export type Severity = Rule["severity"];

export const OPS: readonly Op[] = [">", ">=", "<", "<=", "==", "!="];
export const SEVERITIES: readonly Severity[] = ["critical", "warning", "info"];

function rank(severity: string): number {
  const place = SEVERITIES.findIndex((one) => one === severity);
  return place < 0 ? SEVERITIES.length : place;
}

/** Active ones first, of these the ones that nobody knows of, then by severity, newest first. */
export function inOrder(alarms: readonly Alarm[]): Alarm[] {
  const over = (one: Alarm) => Number(one.clearedAt !== null);
  const known = (one: Alarm) => Number(one.clearedAt === null && one.acknowledgedAt !== null);
  const weight = (one: Alarm) => (one.clearedAt === null ? rank(one.severity) : 0);
  return [...alarms].sort(
    (a, b) =>
      over(a) - over(b) ||
      known(a) - known(b) ||
      weight(a) - weight(b) ||
      b.raisedAt - a.raisedAt,
  );
}

export interface DeviceAlarms {
  readonly count: number;
  readonly worst: string;
}

/** Of each device with active alarms: how many, and the worst severity. */
export function byDevice(alarms: readonly Alarm[]): Map<string, DeviceAlarms> {
  const found = new Map<string, DeviceAlarms>();
  for (const one of alarms) {
    if (one.clearedAt !== null) continue;
    const known = found.get(one.resourceId);
    const worst =
      known !== undefined && rank(known.worst) <= rank(one.severity) ? known.worst : one.severity;
    found.set(one.resourceId, { count: (known?.count ?? 0) + 1, worst });
  }
  return found;
}

/** A rule while somebody writes it. of: whom it watches. */
export interface RuleForm {
  name: string;
  state: string;
  op: Op;
  value: string;
  hysteresis: number;
  forSec: number;
  of: "all" | "type" | "device";
  type: string;
  resourceId: string;
  severity: Severity;
}

export function ruleForm(rule: Rule | null): RuleForm {
  return {
    name: rule?.name ?? "",
    state: rule?.state ?? "",
    op: rule?.op ?? ">",
    value: rule === null ? "" : String(rule.value),
    hysteresis: rule?.hysteresis ?? 0,
    forSec: rule?.forSec ?? 0,
    of: rule?.resourceId ? "device" : rule?.type ? "type" : "all",
    type: rule?.type ?? "",
    resourceId: rule?.resourceId ?? "",
    severity: rule?.severity ?? "warning",
  };
}

/** Whether an operator compares texts too, and so has no hysteresis. */
export function comparesTexts(op: Op): boolean {
  return op === "==" || op === "!=";
}

function isNumber(text: string): boolean {
  return text.trim() !== "" && Number.isFinite(Number(text));
}

/** What is wrong, by the field's name in the API. */
export function ruleFaults(form: RuleForm): Record<string, "required" | "number"> {
  const faults: Record<string, "required" | "number"> = {};
  for (const field of ["name", "state"] as const)
    if (form[field].trim() === "") faults[field] = "required";
  if (form.of === "type" && form.type.trim() === "") faults["type"] = "required";
  if (form.of === "device" && form.resourceId.trim() === "") faults["resourceId"] = "required";
  if (!comparesTexts(form.op) && !isNumber(form.value) && !/^(true|false)$/i.test(form.value.trim()))
    faults["value"] = "number";
  return faults;
}

/** The body to send. The form has been checked. */
export function ruleBody(form: RuleForm): Rule {
  return {
    name: form.name.trim(),
    state: form.state.trim(),
    op: form.op,
    value: isNumber(form.value) ? Number(form.value) : form.value.trim(),
    hysteresis: comparesTexts(form.op) ? 0 : form.hysteresis,
    forSec: form.forSec,
    type: form.of === "type" ? form.type.trim() : "",
    resourceId: form.of === "device" ? form.resourceId.trim() : "",
    severity: form.severity,
  };
}
