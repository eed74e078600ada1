/** Why something does not go, in this person's language: plumd says it in a sentence and in codes. */
import type { Schemas } from "@/api/client";

export type Reason = Schemas["Reason"];

/** why: plumd's sentence.  reason: the same for programs. */
interface Told {
  readonly why?: string | null;
  readonly reason?: Reason | null;
}

type Say = (key: string, values: Record<string, string | number>) => string;

/** say, knows: the catalogue.  What it does not know is said as plumd wrote it. */
export function reasonText(told: Told, say: Say, knows: (key: string) => boolean): string {
  function said(reason: Reason): string | null {
    const key = `reason.${reason.code}`;
    const because = reason.because.map(said);
    if (!knows(key) || because.includes(null)) return null;
    const text = say(key, { ...reason.values, because: because.join(say("reason.and", {})) });
    return reason.nodes ? say("reason.onNodes", { why: text, count: reason.nodes }) : text;
  }
  return (told.reason && said(told.reason)) || (told.why ?? "");
}
