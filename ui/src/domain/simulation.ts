/** What is asked of a simulation, and its chart. */
import type { Schemas } from "@/api/client";
import { shortDuration } from "@/composables/useFormat";
import { allSteps, titleOf } from "./draft";
import type { Draft } from "./draft";
import type { GanttBar, GanttRow } from "./gantt";

export type Simulated = Schemas["SimulateView"];

/** duration: seconds, or two with .. between; failures: percent. Empty = not said. */
export interface StepGuess {
  readonly id: string;
  readonly type: string;
  duration: string;
  failures: string;
}

const GUESSED: ReadonlySet<string> = new Set(["task", "approval", "wait"]);

/** The steps of which something can be believed. */
export function guessesOf(draft: Draft): StepGuess[] {
  return allSteps(draft)
    .filter(({ step }) => GUESSED.has(step.type) && (step.type !== "wait" || step.event !== undefined))
    .map(({ step }) => ({ id: step.id, type: step.type, duration: "", failures: "" }));
}

/** What people call the steps: those without a name or an id of their own go by what they run. */
export function namesOf(draft: Draft): Map<string, string> {
  return new Map(
    allSteps(draft).map(({ step }) => {
      const task = step.task?.["name"];
      const runs = typeof task === "string" ? task : "";
      return [step.id, /^\d+$/.test(step.id) ? step.name || runs || step.type : titleOf(step, runs)];
    }),
  );
}

/** The name of a step of a run, like `each[2].visit`. */
export function calledBy(names: ReadonlyMap<string, string>, stepId: string): string {
  return stepId.replace(/[^.[\]]+(?=\[|\.|$)/g, (part) => names.get(part) ?? part);
}

/** Seconds, or a pair of them; null = it is neither, undefined = nothing is said. */
export function durationOf(text: string): number | [number, number] | null | undefined {
  if (text.trim() === "") return undefined;
  const found = /^\s*(\d+(?:\.\d+)?)\s*(?:\.\.\s*(\d+(?:\.\d+)?))?\s*$/.exec(text);
  if (found === null) return null;
  const low = Number(found[1]);
  if (found[2] === undefined) return low;
  return Number(found[2]) < low ? null : [low, Number(found[2])];
}

/** A share from 0 to 1 of a percentage; null = it is none, undefined = nothing is said. */
export function rateOf(text: string): number | null | undefined {
  if (text.trim() === "") return undefined;
  const percent = Number(text);
  return Number.isFinite(percent) && percent >= 0 && percent <= 100 ? percent / 100 : null;
}

/** The API's form of guesses that are all right. */
export function stepsAsked(guesses: readonly StepGuess[]): Record<string, object> {
  return Object.fromEntries(
    guesses
      .map((one): [string, object] => {
        const [durationSec, failureRate] = [durationOf(one.duration), rateOf(one.failures)];
        return [
          one.id,
          {
            ...(durationSec === undefined ? {} : { durationSec }),
            ...(failureRate === undefined ? {} : { failureRate }),
          },
        ];
      })
      .filter(([, asked]) => Object.keys(asked).length > 0),
  );
}

/** The rows of the sample in the middle. several: whether runs are told apart. */
export function rowsOf(
  simulated: Simulated,
  names: ReadonlyMap<string, string>,
  several: boolean,
): GanttRow[] {
  return simulated.forecast.gantt.bars.map((bar) => {
    const ready = bar.readyAt * 1000;
    const end = (bar.finishedAt ?? simulated.forecast.gantt.makespanSec) * 1000;
    const begun = bar.startedAt === null ? end : bar.startedAt * 1000;
    const bars: GanttBar[] = [];
    if (begun > ready) bars.push({ kind: "wait", from: ready, to: begun, state: "Pending" });
    if (bar.startedAt !== null) bars.push({ kind: "run", from: begun, to: end, state: bar.state });
    const name = calledBy(names, bar.stepId);
    return {
      id: `${bar.run}/${bar.stepId}`,
      title: several ? `#${bar.run + 1} ${name}` : name,
      text: bar.startedAt === null ? "" : shortDuration(end - begun),
      bars,
      lit: bar.critical,
    };
  });
}
