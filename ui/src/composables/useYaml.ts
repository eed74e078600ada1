/** A draft's YAML text: made by plumd from what is drawn, and read by it while one writes. */
import { onScopeDispose, ref, watch } from "vue";
import type { Ref } from "vue";

import { api, asProblem, take } from "@/api/client";
import type { DraftEditor } from "./useDraft";
import { bodyOf, draftOf } from "@/domain/draft";
import type { Draft } from "@/domain/draft";

const PAUSE_MS = 350;
const STAND_IN = "unnamed";

/**
 * shown: whether somebody looks at the text; only then it is kept the same.
 * several: what to say when a text holds more than one workflow.
 */
export function useYaml(editor: DraftEditor, shown: Ref<boolean>, several: () => string) {
  const text = ref("");
  const fault = ref("");
  const line = ref(0);
  const busy = ref(false);
  /** Whether the text says what could not be read yet, or was not read yet. */
  const torn = ref(false);
  /** The draft that the text says; another one has been drawn since when it differs. */
  let told: Draft | null = null;
  let timer: ReturnType<typeof setTimeout> | undefined;
  let current: AbortController | null = null;

  function begin(): AbortController {
    current?.abort();
    current = new AbortController();
    busy.value = true;
    return current;
  }

  function refused(error: unknown): void {
    const problem = asProblem(error);
    fault.value = problem.detail || problem.code;
    line.value = Number(/line (\d+)/.exec(problem.detail)?.[1] ?? 0);
  }

  async function render(): Promise<void> {
    const draft = editor.draft.value;
    const mine = begin();
    try {
      const unnamed = draft.name.trim() === "";
      const body = bodyOf(unnamed ? { ...draft, name: STAND_IN } : draft);
      const made = await take(
        api.POST("/v1/workflows/render", { body: body as never, signal: mine.signal }),
      );
      if (mine.signal.aborted) return;
      text.value = unnamed ? made.yaml.replace(`name: ${STAND_IN}`, 'name: ""') : made.yaml;
      told = draft;
      torn.value = false;
      fault.value = "";
      line.value = 0;
    } catch (error) {
      if (!mine.signal.aborted) refused(error);
    } finally {
      if (current === mine) busy.value = false;
    }
  }

  async function parse(): Promise<void> {
    const mine = begin();
    try {
      const found = await take(
        api.POST("/v1/workflows/parse", { body: { yaml: text.value } as never, signal: mine.signal }),
      );
      if (mine.signal.aborted) return;
      const [only, ...more] = found;
      fault.value = more.length > 0 ? several() : "";
      line.value = 0;
      if (only === undefined || more.length > 0) return;
      told = draftOf(only);
      torn.value = false;
      editor.change(told, "yaml");
    } catch (error) {
      if (!mine.signal.aborted) refused(error);
    } finally {
      if (current === mine) busy.value = false;
    }
  }

  /** What was typed; read when one pauses. */
  function write(now: string): void {
    text.value = now;
    torn.value = true;
    busy.value = true;
    clearTimeout(timer);
    timer = setTimeout(() => void parse(), PAUSE_MS);
  }

  /** Forget what is wrong, and say again what is drawn. */
  async function discard(): Promise<void> {
    clearTimeout(timer);
    await render();
  }

  watch(
    [shown, editor.draft],
    () => {
      // A text that is wrong stays as it was typed, until it is right or thrown away.
      if (shown.value && editor.draft.value !== told && !torn.value) void render();
    },
    { immediate: true },
  );
  onScopeDispose(() => {
    clearTimeout(timer);
    current?.abort();
  });
  return { text, fault, line, busy, torn, write, discard };
}
