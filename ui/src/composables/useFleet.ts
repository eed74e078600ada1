/** Nodes with what is on them: instances, workers, devices. */
import { computed } from "vue";

import { api, take, takePage } from "@/api/client";
import { useMeasured } from "./useMeasured";
import { useNews, useResource } from "./useResource";
import { tilesOf } from "@/domain/topology";
import type { Instance } from "@/domain/topology";

const PAGE = 1_000;
const PAGES_MAX = 5;
const DISTANCE_MS = 3_000;

async function allInstances(signal: AbortSignal): Promise<Instance[]> {
  const found: Instance[] = [];
  let cursor = "";
  for (let page = 0; page < PAGES_MAX; page += 1) {
    const answer = await takePage(
      api.GET("/v1/instances", {
        params: { query: { limit: PAGE, ...(cursor ? { cursor } : {}) } },
        signal,
      }),
    );
    found.push(...answer.items);
    cursor = answer.next;
    if (cursor === "") break;
  }
  return found;
}

export function useFleet() {
  const nodes = useResource((signal) => take(api.GET("/v1/nodes", { signal })), [], DISTANCE_MS);
  const instances = useResource(allInstances, [], DISTANCE_MS);
  const workers = useResource(
    async (signal) => {
      const [embedded, called] = await Promise.all([
        take(api.GET("/v1/embedded-workers", { signal })),
        take(api.GET("/v1/workers", { signal })),
      ]);
      return [...embedded, ...called];
    },
    [],
    DISTANCE_MS,
  );
  const devices = useResource((signal) => take(api.GET("/v1/resources", { signal })), [], DISTANCE_MS);
  useNews("node", () => nodes.refreshSoon());
  useNews("instance", () => instances.refreshSoon());
  useNews("worker", () => workers.refreshSoon());
  useNews("resource", (news) => {
    if (news.what !== "state") devices.refreshSoon();
  });
  useMeasured(nodes.refresh);
  const tiles = computed(() =>
    tilesOf(
      nodes.data.value ?? [],
      instances.data.value ?? [],
      workers.data.value ?? [],
      devices.data.value ?? [],
    ),
  );
  return { nodes, tiles };
}
