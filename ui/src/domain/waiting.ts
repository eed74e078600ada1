/** Steps of a run that wait for somebody. */
import type { StepRun } from "@/api/client";

interface Said {
  readonly id?: string;
  readonly event?: string;
  readonly body?: readonly Said[];
}

/** The id that the workflow has for a step of a run: `visit` of `each[2].visit`. */
export function ownId(stepId: string): string {
  return stepId.slice(stepId.lastIndexOf(".") + 1).replace(/\[\d+\]$/, "");
}

/** The loop or map whose round a step is in, "" = none: `each` of `each[2].visit`. */
export function ownerOf(stepId: string): string {
  const round = stepId.slice(0, Math.max(0, stepId.lastIndexOf(".")));
  return round.replace(/\[\d+\]$/, "");
}

/** The events that waits are for, by the id of the step; also of steps in bodies. */
export function eventsOf(steps: readonly Said[]): Map<string, string> {
  return new Map(
    steps.flatMap((one) => [
      ...(one.id !== undefined && one.event ? [[one.id, one.event] as const] : []),
      ...eventsOf(one.body ?? []),
    ]),
  );
}

/** Whether it goes no further without somebody's word. */
export function isAsking(step: StepRun, events: ReadonlyMap<string, string>): boolean {
  if (step.state !== "Running") return false;
  return step.type === "approval" || (step.type === "wait" && events.has(ownId(step.stepId)));
}
