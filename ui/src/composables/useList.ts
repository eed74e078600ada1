/** A list that is read page by page from the newest, and stays true while one looks at it. */
import { computed, onScopeDispose, ref, shallowRef, watch } from "vue";
import type { WatchSource } from "vue";

import { asProblem } from "@/api/client";
import type { Page, Problem } from "@/api/client";
import { useSoon } from "./useSoon";
import { linkState, listen } from "@/api/events";

const SCREEN_ROWS = 40;
const DISTANCE_MS = 1_500; // a busy list must not be asked for all the time

interface ListOptions<T> {
  /** Which thing a row is. */
  key: (row: T) => string;
  /** One page; cursor "" is the first. */
  fetch: (cursor: string, signal: AbortSignal) => Promise<Page<T>>;
  /** What the question depends on; a change begins anew. */
  sources?: WatchSource[];
}

export function useList<T>({ key, fetch, sources = [] }: ListOptions<T>) {
  const rows = shallowRef<T[]>([]);
  const problem = shallowRef<Problem | null>(null);
  const loading = ref(false);
  const loaded = ref(false);
  const next = ref("");
  let current: AbortController | null = null;
  let changed: T[] | null = null;
  /** What was heard while an answer was under way, which may be older. */
  let meanwhile: (() => void)[] = [];
  /** The first page is read anew; whoever wants more meanwhile gets it afterwards. */
  let refreshing = false;
  let wanted = false;
  const places = computed(() => new Map(rows.value.map((row, place) => [key(row), place])));

  async function ask(cursor: string, use: (page: Page<T>) => void): Promise<void> {
    current?.abort();
    const mine = new AbortController();
    current = mine;
    meanwhile = [];
    loading.value = true;
    try {
      const page = await fetch(cursor, mine.signal);
      if (mine.signal.aborted) return;
      use(page);
      for (const again of meanwhile.splice(0)) again();
      problem.value = null;
      // plumd looks at so many rows a question and no more: a page may be short and not the last.
      const searching =
        next.value !== "" && next.value !== cursor && rows.value.length < SCREEN_ROWS;
      if (searching) setTimeout(() => void more());
      if (!searching || rows.value.length > 0) loaded.value = true;
    } catch (error) {
      if (!mine.signal.aborted) problem.value = asProblem(error);
    } finally {
      if (current === mine) {
        loading.value = false;
        refreshing = false;
        if (wanted) void more();
      }
    }
  }

  /** The first page anew; what had been read behind it stays. */
  async function refresh(): Promise<void> {
    refreshing = true;
    await ask("", (page) => {
      changed = null;
      const fresh = new Set(page.items.map(key));
      const oldest = page.items.at(-1);
      const behind =
        oldest === undefined || page.next === ""
          ? []
          : rows.value.slice(rows.value.findIndex((row) => key(row) === key(oldest)) + 1);
      const nothing = page.items.length === 0 && page.next !== "";
      const kept = nothing ? rows.value : rows.value.length > page.items.length ? behind : [];
      rows.value = [...page.items, ...kept.filter((row) => !fresh.has(key(row)))];
      if (kept.length === 0) next.value = page.next;
    });
  }

  async function more(): Promise<void> {
    wanted = refreshing && next.value !== "";
    if (next.value === "" || loading.value) return;
    await ask(next.value, (page) => {
      show();
      const known = new Set(rows.value.map(key));
      rows.value = [...rows.value, ...page.items.filter((row) => !known.has(key(row)))];
      next.value = page.next;
    });
  }

  const refreshSoon = useSoon(() => void refresh(), DISTANCE_MS);

  /** Change one row in place, together with all that change at this moment; answers whether it is here. */
  function patch(id: string, change: (row: T) => T): boolean {
    if (loading.value) meanwhile.push(() => void patchNow(id, change));
    return patchNow(id, change);
  }

  function patchNow(id: string, change: (row: T) => T): boolean {
    const place = places.value.get(id);
    const row = place === undefined ? undefined : (changed ?? rows.value)[place];
    if (place === undefined || row === undefined) return false;
    if (changed === null) {
      changed = [...rows.value];
      queueMicrotask(show);
    }
    changed[place] = change(row);
    return true;
  }

  function show(): void {
    if (changed !== null) rows.value = changed;
    changed = null;
  }

  function remove(id: string): void {
    if (loading.value) meanwhile.push(() => removeNow(id));
    removeNow(id);
  }

  function removeNow(id: string): void {
    show();
    rows.value = rows.value.filter((row) => key(row) !== id);
  }

  if (sources.length > 0)
    watch(sources, () => {
      changed = null;
      rows.value = [];
      next.value = "";
      loaded.value = false;
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

  return {
    rows,
    problem,
    loading,
    loaded,
    more,
    patch,
    remove,
    refresh,
    refreshSoon,
    atEnd: computed(() => loaded.value && next.value === ""),
  };
}
