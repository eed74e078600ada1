/** What can be started, to choose from and to be called by its name instead of its id. */
import { computed } from "vue";
import type { ComputedRef } from "vue";

import { api, takePage } from "@/api/client";
import { useNews, useResource } from "./useResource";

const MANY = { params: { query: { limit: 1000 } } };

export interface Named {
  readonly id: string;
  readonly name: string;
}

export interface NamedThings {
  readonly items: ComputedRef<readonly Named[]>;
  /** Whether the list is here. */
  readonly loaded: ComputedRef<boolean>;
  /** The name of one; its id where nothing is known of it. */
  readonly nameOf: (id: string) => string;
}

function named(
  news: "workflow" | "taskDef",
  fetch: (signal: AbortSignal) => Promise<readonly Named[]>,
): NamedThings {
  const found = useResource(fetch);
  useNews(news, () => found.refreshSoon());
  const names = computed(() => new Map((found.data.value ?? []).map((one) => [one.id, one.name])));
  return {
    items: computed(() => found.data.value ?? []),
    loaded: computed(() => found.data.value !== null),
    nameOf: (id) => names.value.get(id) ?? id,
  };
}

/** All workflows. */
export function useWorkflows(): NamedThings {
  return named("workflow", async (signal) => {
    const { items } = await takePage(api.GET("/v1/workflows", { ...MANY, signal }));
    return items.map((one) => ({ id: one.workflowId, name: one.name }));
  });
}

/** All definitions of tasks. */
export function useTaskDefs(): NamedThings {
  return named("taskDef", async (signal) => {
    const { items } = await takePage(api.GET("/v1/task-defs", { ...MANY, signal }));
    return items.map((one) => ({ id: one.defId, name: one.name }));
  });
}
