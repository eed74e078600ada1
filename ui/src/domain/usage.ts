/** What an instance uses, and what its end says about memory. */
import type { Instance } from "./deployment";

/** Whether the kernel ended it, or one of its processes, for want of memory. */
export function ranOutOfMemory(message: string): boolean {
  return message.includes("out of memory");
}

/** Of how much it may have, 0 .. 1; null where nothing limits it, or nobody measured. */
export function limitShare(instance: Instance, limitBytes: number): number | null {
  if (instance.stats === null || limitBytes <= 0) return null;
  return instance.stats.memoryBytes / limitBytes;
}
