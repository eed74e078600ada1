/** States of tasks, runs, steps and workers: one map from state to colour and icon. */
import {
  AlarmClock,
  Ban,
  CheckCircle2,
  Circle,
  CircleDashed,
  CircleDot,
  CirclePause,
  CirclePlay,
  CircleStop,
  CloudOff,
  Hourglass,
  Info,
  LoaderCircle,
  OctagonAlert,
  RotateCw,
  SkipForward,
  TriangleAlert,
  UserRoundCheck,
  XCircle,
} from "@lucide/vue";
import type { Component } from "vue";

export const TASK_STATES = [
  "Queued",
  "Pending",
  "Running",
  "Retrying",
  "Succeeded",
  "Failed",
  "Timeout",
  "Canceled",
] as const;
export const OTHER_STATES = [
  "Waiting",
  "Asking",
  "Skipped",
  "Paused",
  "Active",
  "Healthy",
  "Unhealthy",
  "Draining",
  "Away",
  "Offline",
  "Starting",
  "Stopped",
  "Completed",
  "Lost",
  "closed",
  "open",
  "half-open",
  "connecting",
  "connected",
  "away",
  "critical",
  "warning",
  "info",
] as const;

export type TaskState = (typeof TASK_STATES)[number];
export type State = TaskState | (typeof OTHER_STATES)[number];

interface Look {
  readonly color: string;
  readonly icon: Component;
  readonly spin?: boolean;
}

export const LOOKS: Readonly<Record<State, Look>> = {
  Queued: { color: "var(--state-queued)", icon: CircleDashed },
  Pending: { color: "var(--state-pending)", icon: Hourglass },
  Running: { color: "var(--state-running)", icon: LoaderCircle, spin: true },
  Retrying: { color: "var(--state-retrying)", icon: RotateCw },
  Succeeded: { color: "var(--state-succeeded)", icon: CheckCircle2 },
  Failed: { color: "var(--state-failed)", icon: XCircle },
  Timeout: { color: "var(--state-failed)", icon: AlarmClock },
  Canceled: { color: "var(--state-canceled)", icon: Ban },
  Waiting: { color: "var(--state-queued)", icon: Circle },
  Asking: { color: "var(--accent)", icon: UserRoundCheck },
  Skipped: { color: "var(--state-canceled)", icon: SkipForward },
  Paused: { color: "var(--state-paused)", icon: CirclePause },
  Active: { color: "var(--state-succeeded)", icon: CirclePlay },
  Healthy: { color: "var(--state-succeeded)", icon: CircleDot },
  Unhealthy: { color: "var(--state-failed)", icon: XCircle },
  Draining: { color: "var(--state-retrying)", icon: Hourglass },
  Away: { color: "var(--state-running)", icon: CloudOff },
  Offline: { color: "var(--state-canceled)", icon: CloudOff },
  Starting: { color: "var(--state-pending)", icon: LoaderCircle, spin: true },
  Stopped: { color: "var(--state-canceled)", icon: CircleStop },
  Completed: { color: "var(--state-succeeded)", icon: CheckCircle2 },
  Lost: { color: "var(--state-failed)", icon: CloudOff },
  closed: { color: "var(--state-succeeded)", icon: CheckCircle2 },
  open: { color: "var(--state-failed)", icon: Ban },
  "half-open": { color: "var(--state-retrying)", icon: CircleDashed },
  connecting: { color: "var(--state-pending)", icon: LoaderCircle, spin: true },
  connected: { color: "var(--state-succeeded)", icon: CheckCircle2 },
  away: { color: "var(--state-failed)", icon: CloudOff },
  critical: { color: "var(--state-failed)", icon: OctagonAlert },
  warning: { color: "var(--state-retrying)", icon: TriangleAlert },
  info: { color: "var(--state-pending)", icon: Info },
};

export function isState(text: string): text is State {
  return text in LOOKS;
}

/** Whether a task or run in this state is over. */
export function isOver(state: string): boolean {
  return ["Succeeded", "Failed", "Timeout", "Canceled", "Skipped"].includes(state);
}

/** What became of a task, in the colours of charts: CSS variable names. */
export const CHART_COLORS = {
  submitted: "--state-pending",
  started: "--state-running",
  succeeded: "--state-succeeded",
  failed: "--state-failed",
  timeout: "--state-retrying",
  canceled: "--state-canceled",
} as const;
