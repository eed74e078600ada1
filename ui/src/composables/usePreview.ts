/**
 * What plumd says of a form while one writes it, asked when one has stopped for a moment.
 *
 * text: what the answer depends on.  ask: null = nothing can be said yet.
 */
import { onScopeDispose, shallowRef, watch } from "vue";

import { asProblem } from "@/api/client";
import type { Problem } from "@/api/client";

const TYPING_MS = 400;

export function usePreview<T>(text: () => string, ask: () => Promise<T | null>) {
  const answer = shallowRef<T | null>(null);
  const unclear = shallowRef<Problem | null>(null);
  let typing: ReturnType<typeof setTimeout> | undefined;
  let asked = 0;

  async function look(): Promise<void> {
    asked += 1;
    const mine = asked;
    try {
      const found = await ask();
      if (mine !== asked) return;
      answer.value = found;
      unclear.value = null;
    } catch (error) {
      if (mine === asked) unclear.value = asProblem(error);
    }
  }

  watch(
    text,
    () => {
      clearTimeout(typing);
      typing = setTimeout(() => void look(), TYPING_MS);
    },
    { immediate: true },
  );
  onScopeDispose(() => clearTimeout(typing));
  return { answer, unclear };
}
