/** What there is to choose from in forms: workers and the task names they offer, services, builtins. */
import { computed } from "vue";
import { useI18n } from "vue-i18n";

import { api, take, takePage } from "@/api/client";
import { namesOf } from "@/domain/worker";
import { useNews, useResource } from "./useResource";

export interface Choice {
  readonly value: string;
  readonly note: string;
}

export function useCatalog() {
  const { t, te } = useI18n();
  const workers = useResource(async (signal) => {
    const [embedded, called] = await Promise.all([
      takePage(api.GET("/v1/embedded-workers", { signal })),
      takePage(api.GET("/v1/workers", { signal })),
    ]);
    return [...embedded.items, ...called.items];
  });
  const services = useResource((signal) => take(api.GET("/v1/services/list", { signal })));
  const builtins = useResource((signal) => take(api.GET("/v1/builtins", { signal })));
  useNews("worker", () => workers.refreshSoon());
  useNews("service", () => services.refreshSoon());

  /** Names of tasks that a worker offers now, with how many workers do. */
  const taskNames = computed<Choice[]>(() => {
    const counts = new Map<string, number>();
    for (const worker of workers.data.value ?? [])
      if (worker.health !== "Offline")
        for (const name of namesOf(worker)) counts.set(name, (counts.get(name) ?? 0) + 1);
    return [...counts]
      .sort(([a], [b]) => a.localeCompare(b))
      .map(([value, count]) => ({ value, note: String(count) }));
  });
  const builtinNames = computed<Choice[]>(() =>
    (builtins.data.value ?? []).map((one) => {
      const key = `builtinText.${shortOf(one.name)}`;
      return { value: one.name, note: te(key) ? t(key) : one.description };
    }),
  );
  const workerIds = computed<Choice[]>(() =>
    (workers.data.value ?? []).map((one) => ({ value: one.workerId, note: t(`state.${one.health}`) })),
  );
  const nodeIds = computed<Choice[]>(() => valuesOf("nodeId"));
  const appNames = computed<Choice[]>(() => valuesOf("appName"));
  const serviceNames = computed<Choice[]>(() =>
    (services.data.value ?? []).map((one) => ({ value: nameOf(one), note: "" })),
  );
  const labelPairs = computed<Choice[]>(() => {
    const pairs = new Set<string>();
    for (const worker of workers.data.value ?? [])
      for (const [key, value] of Object.entries(worker.labels)) pairs.add(`${key}=${value}`);
    return [...pairs].sort().map((value) => ({ value, note: "" }));
  });

  function valuesOf(key: "nodeId" | "appName"): Choice[] {
    const found = new Set((workers.data.value ?? []).map((one) => one[key]).filter(Boolean));
    return [...found].sort().map((value) => ({ value, note: "" }));
  }

  /** `echo` of `builtin.echo`. */
  function shortOf(builtin: string): string {
    return builtin.slice(builtin.indexOf(".") + 1);
  }

  function nameOf(one: string | { serviceName: string }): string {
    return typeof one === "string" ? one : one.serviceName;
  }

  return { taskNames, builtinNames, workerIds, nodeIds, appNames, serviceNames, labelPairs, builtins };
}
