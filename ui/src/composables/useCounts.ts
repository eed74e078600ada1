/** The figures beside the entries of the menu, by place; 0 = none is shown. */
import { computed } from "vue";
import type { ComputedRef } from "vue";

import { liveStats } from "@/api/events";
import { useAlarms } from "./useAlarms";

export function useCounts(): ComputedRef<Readonly<Record<string, number>>> {
  const alarms = useAlarms();
  return computed(() => {
    const now = liveStats.value;
    return {
      alarms: alarms.data.value?.length ?? 0,
      tasks: now === null ? 0 : now.states.running + now.states.pending + now.states.retrying,
      runs: now?.liveRuns ?? 0,
      workers: now?.workers ?? 0,
    };
  });
}
