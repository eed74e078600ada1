/** One server resource: fetched, kept, fetched anew after a gap, never polled. */
import { onScopeDispose, ref, shallowRef, watch } from "vue";
import type { Ref, ShallowRef, WatchSource } from "vue";

import { asProblem, Problem } from "@/api/client";
import { linkState, listen } from "@/api/events";
import { useSoon } from "./useSoon";
import type { NewsByName, NewsName } from "@/api/events";

export interface Resource<T> {
  readonly data: ShallowRef<T | null>;
  readonly problem: ShallowRef<Problem | null>;
  readonly loading: Ref<boolean>;
  /** Fetch anew; what is shown stays until the answer is there. */
  refresh: () => Promise<void>;
  /** Fetch anew soon: many calls within a moment make one fetch. */
  refreshSoon: () => void;
}

/**
 * fetch: asks plumd; the signal is aborted when a newer question has been asked.
 * sources: what the question depends on; a change forgets the old answer and asks anew.
 * distanceMs: how long between fetches that nobody waits for.
 */
export function useResource<T>(
  fetch: (signal: AbortSignal) => Promise<T>,
  sources: WatchSource[] = [],
  distanceMs?: number,
): Resource<T> {
  const data = shallowRef<T | null>(null);
  const problem = shallowRef<Problem | null>(null);
  const loading = ref(false);
  let current: AbortController | null = null;

  async function refresh(): Promise<void> {
    current?.abort();
    const mine = new AbortController();
    current = mine;
    loading.value = true;
    try {
      const answer = await fetch(mine.signal);
      if (mine.signal.aborted) return;
      data.value = answer;
      problem.value = null;
    } catch (error) {
      if (mine.signal.aborted) return;
      problem.value = asProblem(error);
    } finally {
      if (current === mine) loading.value = false;
    }
  }

  const refreshSoon = useSoon(() => void refresh(), distanceMs);

  if (sources.length > 0)
    watch(sources, () => {
      data.value = null;
      problem.value = null;
      void refresh();
    });
  watch(linkState, (now) => {
    if (now === "live" && problem.value?.status === 0) void refresh();
  });
  const stop = listen("gap", () => void refresh());
  onScopeDispose(() => {
    stop();
    current?.abort();
  });
  void refresh();
  return { data, problem, loading, refresh, refreshSoon };
}

/** Listen while the calling component lives. */
export function useNews<N extends NewsName>(
  name: N,
  listener: (news: NewsByName[N]) => void,
): void {
  onScopeDispose(listen(name, listener));
}
