/** The lines of a log, by a stream that stays open while there may be more. */
import { onScopeDispose, ref, shallowRef, triggerRef, watch } from "vue";

import { asProblem, problemOf } from "@/api/client";
import type { Problem } from "@/api/client";
import { linkState } from "@/api/events";

const LINES_MAX = 400_000;
const FLUSH_MS = 100;

export type LogState = "open" | "ended" | "failed";

/** url: where the log is, with a query. */
export function useLog(url: () => string) {
  const lines = shallowRef<string[]>([]);
  const state = ref<LogState>("open");
  const problem = shallowRef<Problem | null>(null);
  const bytes = ref(0);
  /** Lines at the beginning that were let go, so that the page stays small. */
  const dropped = ref(0);
  let current: AbortController | null = null;
  let partial = "";
  let offset = 0;
  let waiting: ReturnType<typeof setTimeout> | undefined;
  let stale = false;

  /** Shows what came, at once and then at most so often. */
  function flush(): void {
    stale = false;
    waiting = setTimeout(() => {
      waiting = undefined;
      if (stale) flush();
    }, FLUSH_MS);
    if (lines.value.length > LINES_MAX) {
      const surplus = lines.value.length - LINES_MAX;
      lines.value.splice(0, surplus);
      dropped.value += surplus;
    }
    triggerRef(lines);
    bytes.value = offset;
  }

  function add(text: string): void {
    const pieces = (partial + text).split("\n");
    partial = pieces.pop() ?? "";
    for (const piece of pieces) lines.value.push(piece);
    stale = true;
    if (waiting === undefined) flush();
  }

  async function read(): Promise<void> {
    current?.abort();
    const mine = new AbortController();
    current = mine;
    state.value = "open";
    problem.value = null;
    try {
      const answer = await fetch(`${url()}&follow=true&offset=${offset}`, { signal: mine.signal });
      if (!answer.ok || answer.body === null) {
        if (answer.status !== 404)
          throw problemOf(answer.status, await answer.json().catch(() => null));
        state.value = "ended";
        return;
      }
      const decoder = new TextDecoder();
      const reader = answer.body.getReader();
      for (;;) {
        const { done, value } = await reader.read();
        if (mine.signal.aborted) return;
        if (done) break;
        offset += value.byteLength;
        add(decoder.decode(value, { stream: true }));
      }
      if (partial !== "") add("\n");
      state.value = "ended";
    } catch (error) {
      if (mine.signal.aborted) return;
      state.value = "failed";
      if (lines.value.length === 0) problem.value = asProblem(error);
    }
  }

  function restart(): void {
    lines.value = [];
    partial = "";
    offset = 0;
    bytes.value = 0;
    dropped.value = 0;
    void read();
  }

  watch(url, restart, { immediate: true });
  watch(linkState, (now) => {
    if (now === "live" && state.value === "failed") restart();
  });
  onScopeDispose(() => {
    clearTimeout(waiting);
    current?.abort();
  });
  return { lines, state, problem, bytes, dropped, restart };
}
