/** A schedule as a form holds it, and as plumd reads and writes it. */
import type { Schemas } from "@/api/client";
import { parseJson } from "./json";

export type Schedule = Schemas["ScheduleView"];
export type Slot = Schemas["SlotView"];
export type When = "cron" | "everySec" | "at";

export interface ScheduleForm {
  name: string;
  description: string;
  starts: "workflow" | "taskDef";
  workflowId: string;
  defId: string;
  payload: string;
  when: When;
  cron: string;
  everySec: number;
  /** Unix ms. */
  at: number | null;
  timeZone: string;
  dstGap: string;
  /** "" = plumd's own choice. */
  dstOverlap: string;
  overlapPolicy: string;
  missedPolicy: string;
  missedWindowSec: number;
  jitterSec: number;
  startAt: number | null;
  endAt: number | null;
  calendars: string[];
  enabled: boolean;
}

export function emptyForm(timeZone: string): ScheduleForm {
  return {
    name: "",
    description: "",
    starts: "workflow",
    workflowId: "",
    defId: "",
    payload: "",
    when: "cron",
    cron: "0 2 * * *",
    everySec: 60,
    at: null,
    timeZone,
    dstGap: "shift",
    dstOverlap: "",
    overlapPolicy: "skip",
    missedPolicy: "last",
    missedWindowSec: 86_400,
    jitterSec: 0,
    startAt: null,
    endAt: null,
    calendars: [],
    enabled: true,
  };
}

export function formOf(schedule: Schedule): ScheduleForm {
  return {
    ...emptyForm(schedule.timeZone),
    name: schedule.name,
    description: schedule.description,
    starts: schedule.workflowId === null ? "taskDef" : "workflow",
    workflowId: schedule.workflowId ?? "",
    defId: schedule.defId ?? "",
    payload:
      schedule.payload === null || schedule.payload === undefined
        ? ""
        : JSON.stringify(schedule.payload, null, 2),
    when: schedule.cron !== null ? "cron" : schedule.everySec !== null ? "everySec" : "at",
    cron: schedule.cron ?? "",
    everySec: schedule.everySec ?? 60,
    at: schedule.at,
    dstGap: schedule.dstGap,
    dstOverlap: schedule.dstOverlap,
    overlapPolicy: schedule.overlapPolicy,
    missedPolicy: schedule.missedPolicy,
    missedWindowSec: schedule.missedWindowSec,
    jitterSec: schedule.jitterSec,
    startAt: schedule.startAt,
    endAt: schedule.endAt,
    calendars: [...schedule.calendars],
    enabled: schedule.enabled,
  };
}

/** The body to send. The form has been checked. */
export function bodyOf(form: ScheduleForm): Record<string, unknown> {
  const parsed = parseJson(form.payload);
  return {
    name: form.name,
    description: form.description,
    ...(form.starts === "workflow" ? { workflowId: form.workflowId } : { defId: form.defId }),
    ...(parsed.ok && parsed.value !== undefined ? { payload: parsed.value } : {}),
    [form.when]: form[form.when],
    timeZone: form.timeZone,
    dstGap: form.dstGap,
    ...(form.dstOverlap === "" ? {} : { dstOverlap: form.dstOverlap }),
    overlapPolicy: form.overlapPolicy,
    missedPolicy: form.missedPolicy,
    missedWindowSec: form.missedWindowSec,
    jitterSec: form.jitterSec,
    ...(form.startAt === null ? {} : { startAt: form.startAt }),
    ...(form.endAt === null ? {} : { endAt: form.endAt }),
    calendars: form.calendars,
    enabled: form.enabled,
  };
}

/** When a schedule fires, in few words that need no language: its cron text, or every so long. */
export function whenText(
  schedule: Pick<Schedule, "cron" | "everySec" | "at">,
  duration: (ms: number) => string,
  dateTime: (ms: number) => string,
): string {
  if (schedule.cron !== null) return schedule.cron;
  if (schedule.everySec !== null) return `⟳ ${duration(schedule.everySec * 1_000)}`;
  return schedule.at === null ? "–" : dateTime(schedule.at);
}
