/** What a node's agent measured. */
import type { Schemas } from "@/api/client";

type Facts = Schemas["Facts"];

/** How much of the memory is taken, 0 .. 1; 0 where nothing is known. */
export function memoryShare(facts: Facts): number {
  const total = facts.memTotal;
  return total > 0 ? 1 - facts.memAvailable / total : 0;
}

/** How much of the disk is taken, 0 .. 1; 0 where nothing is known. */
export function diskShare(facts: Facts): number {
  const total = facts.diskTotal;
  return total > 0 ? 1 - facts.diskFree / total : 0;
}
