/** A workflow that is being written: what it says now, every earlier state, and where one looks. */
import { computed, ref, shallowRef } from "vue";
import type { ComputedRef, Ref, ShallowRef } from "vue";

import {
  added,
  connected,
  EMPTY_DRAFT,
  patched,
  placed,
  removed,
  renamed,
  stepsAt,
  unplaced,
} from "@/domain/draft";
import type { Draft, DraftStep, ScopePath, Spot, StepType } from "@/domain/draft";

const STATES_MAX = 200;

export interface DraftEditor {
  readonly draft: ShallowRef<Draft>;
  /** Where one looks; shorter than chosen when what it names is gone. */
  readonly scope: ComputedRef<ScopePath>;
  readonly steps: ComputedRef<readonly DraftStep[]>;
  /** The id of the chosen step of the scope, "" = none. */
  readonly selected: Ref<string>;
  readonly step: ComputedRef<DraftStep | undefined>;
  readonly canUndo: ComputedRef<boolean>;
  readonly canRedo: ComputedRef<boolean>;
  load: (draft: Draft) => void;
  /** A new state. key: changes with the same key, one after the other, are undone together. */
  change: (draft: Draft, key?: string) => void;
  undo: () => void;
  redo: () => void;
  enter: (path: ScopePath, id?: string) => void;
  /** at: where it was dropped, spots: where the others stand then; else it follows the chosen one. */
  add: (type: StepType, at?: Spot, spots?: ReadonlyMap<string, Spot>) => void;
  remove: (id: string) => void;
  patch: (patch: Partial<DraftStep>, key?: string) => void;
  /** name: what it is called besides, "" = by its id. */
  rename: (to: string, name: string) => void;
  connect: (from: string, to: string, on: string) => void;
  place: (spots: ReadonlyMap<string, Spot>) => void;
  /** Let the layout find all places of the scope again. */
  tidy: () => void;
}

export function useDraft(): DraftEditor {
  const draft = shallowRef<Draft>(EMPTY_DRAFT);
  const past = shallowRef<readonly Draft[]>([]);
  const future = shallowRef<readonly Draft[]>([]);
  const wanted = shallowRef<ScopePath>(["steps"]);
  const selected = ref("");
  let lastKey = "";

  const scope = computed<ScopePath>(() => {
    let path = wanted.value;
    while (path.length > 1 && stepsAt(draft.value, path) === undefined) path = path.slice(0, -1);
    return path;
  });
  const steps = computed(() => stepsAt(draft.value, scope.value) ?? []);
  const step = computed(() => steps.value.find((one) => one.id === selected.value));

  function change(next: Draft, key = ""): void {
    if (next === draft.value) return;
    if (key === "" || key !== lastKey)
      past.value = [...past.value.slice(-STATES_MAX + 1), draft.value];
    lastKey = key;
    future.value = [];
    draft.value = next;
  }

  function travel(from: typeof past, to: typeof past): void {
    const next = from.value.at(-1);
    if (next === undefined) return;
    from.value = from.value.slice(0, -1);
    to.value = [...to.value, draft.value];
    draft.value = next;
    lastKey = "";
    if (step.value === undefined) selected.value = "";
  }

  return {
    draft,
    scope,
    steps,
    selected,
    step,
    canUndo: computed(() => past.value.length > 0),
    canRedo: computed(() => future.value.length > 0),
    load(next) {
      draft.value = next;
      past.value = [];
      future.value = [];
    },
    change,
    undo: () => travel(past, future),
    redo: () => travel(future, past),
    enter(path, id = "") {
      wanted.value = path;
      selected.value = id;
    },
    add(type, at, spots = new Map()) {
      const after = at === undefined ? (step.value ?? lastOf(steps.value)) : undefined;
      const from = at ?? besides(after, steps.value);
      const [next, id] = added(placed(draft.value, scope.value, spots), scope.value, type, {
        after: after?.id ?? "",
        on: after?.type === "branch" ? freeEnd(after, steps.value) : "",
        ...(from === undefined ? {} : { at: from }),
      });
      change(next);
      selected.value = id;
    },
    remove(id) {
      change(removed(draft.value, scope.value, [id]));
      if (selected.value === id) selected.value = "";
    },
    patch(patch, key = "") {
      if (step.value === undefined) return;
      const id = step.value.id;
      change(patched(draft.value, scope.value, id, patch), key === "" ? "" : `${id}.${key}`);
    },
    rename(to, name) {
      const from = step.value?.id;
      if (from === undefined || from === to) return;
      const next = renamed(draft.value, scope.value, from, to);
      change(patched(next, scope.value, to, { name: name || undefined }));
      selected.value = to;
    },
    connect: (from, to, on) => change(connected(draft.value, scope.value, from, to, on)),
    place: (spots) => change(placed(draft.value, scope.value, spots)),
    tidy: () => change(unplaced(draft.value, scope.value)),
  };
}

/** The step that a new one follows when none is chosen: of a chain its end, else none. */
function lastOf(steps: readonly DraftStep[]): DraftStep | undefined {
  const needed = new Set(steps.flatMap((one) => one.needs.map((need) => need.step)));
  const ends = steps.filter((one) => !needed.has(one.id));
  return ends.length === 1 ? ends[0] : undefined;
}

/** The way out of a branch that nothing follows yet. */
function freeEnd(branch: DraftStep, steps: readonly DraftStep[]): string {
  const taken = new Set(
    steps.flatMap((one) =>
      one.needs.filter((need) => need.step === branch.id).map((need) => need.on),
    ),
  );
  return taken.has("true") && !taken.has("false") ? "false" : "true";
}

/** Right of a step, below what it has already; undefined where places are found by the layout. */
function besides(
  after: DraftStep | undefined,
  steps: readonly DraftStep[],
): Spot | undefined {
  if (steps.some((one) => one.position === undefined)) return undefined;
  if (after?.position === undefined) {
    if (steps.length === 0) return undefined;
    return { x: 0, y: Math.max(...steps.map((one) => one.position?.y ?? 0)) + 100 };
  }
  const spot = { x: after.position.x + 270, y: after.position.y };
  const near = (one: DraftStep) =>
    Math.abs((one.position?.x ?? 0) - spot.x) < 200 && Math.abs((one.position?.y ?? 0) - spot.y) < 80;
  while (steps.some(near)) spot.y += 90;
  return spot;
}
