/** What a node's agent measured. */
import type { Schemas } from "@/api/client";

type Facts = Schemas["Facts"];

/** How much of the memory is taken, 0 .. 1; 0 where nothing is known. */
export function memoryShare(facts: Facts): number {
  const total = facts.memTotal ?? 0;
  return total > 0 ? 1 - (facts.memAvailable ?? 0) / total : 0;
}

/** How much of the disk is taken, 0 .. 1; 0 where nothing is known. */
export function diskShare(facts: Facts): number {
  const total = facts.diskTotal ?? 0;
  return total > 0 ? 1 - (facts.diskFree ?? 0) / total : 0;
}
