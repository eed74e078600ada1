/** What plumd would refuse of a workflow while one writes it; asked when one pauses. */
import { onScopeDispose, ref, shallowRef, watch } from "vue";
import type { Ref } from "vue";

import { api, take } from "@/api/client";
import type { Schemas } from "@/api/client";

export type Flaw = Schemas["Flaw"];
const PAUSE_MS = 400;

/**
 * body: as it would be saved; null = not worth asking. workflowId: what would get a new version.
 * asked: whether the answer belongs to what is written now.
 */
export function useValidation(body: Ref<unknown>, workflowId: string) {
  const flaws = shallowRef<readonly Flaw[]>([]);
  const asked = ref(false);
  let timer: ReturnType<typeof setTimeout> | undefined;
  let current: AbortController | null = null;

  async function ask(): Promise<void> {
    current?.abort();
    const mine = new AbortController();
    current = mine;
    try {
      const answer = await take(
        api.POST("/v1/workflows/validate", {
          params: { query: workflowId === "" ? {} : { workflowId } },
          body: body.value as never,
          signal: mine.signal,
        }),
      );
      if (mine.signal.aborted) return;
      flaws.value = answer.flaws;
      asked.value = true;
    } catch {
      // Away or refused for another reason: saving will say it, and here nothing is claimed.
      if (!mine.signal.aborted) flaws.value = [];
    }
  }

  watch(
    body,
    (now) => {
      clearTimeout(timer);
      asked.value = false;
      if (now === null) {
        current?.abort();
        flaws.value = [];
        return;
      }
      timer = setTimeout(() => void ask(), PAUSE_MS);
    },
    { immediate: true },
  );
  onScopeDispose(() => {
    clearTimeout(timer);
    current?.abort();
  });
  return { flaws, asked };
}
