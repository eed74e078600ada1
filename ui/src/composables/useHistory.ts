/** The daemon's figures over time: fetched once, then grown by what the line tells each second. */
import type { ShallowRef } from "vue";

import { api, take } from "@/api/client";
import type { Schemas } from "@/api/client";
import type { Stats } from "@/api/events";
import { useNews, useResource } from "./useResource";

export type History = Schemas["History"];

export function useHistory(window: "15m" | "24h"): { history: ShallowRef<History | null> } {
  const found = useResource((signal) =>
    take(api.GET("/v1/stats/history", { params: { query: { window } }, signal })),
  );
  useNews("stats", (stats) => {
    const now = found.data.value;
    if (now !== null) found.data.value = grown(now, stats);
  });
  return { history: found.data };
}

/** The same window, with one more point when it is time for one. */
export function grown(history: History, stats: Stats): History {
  const last = history.at.at(-1) ?? 0;
  if (stats.at - last < history.stepSec * 900) return history;
  const keep = history.at.length;
  const values: Record<keyof History["series"], number | null> = {
    submitted: stats.perSec.submitted,
    started: stats.perSec.started,
    succeeded: stats.perSec.succeeded,
    failed: stats.perSec.failed,
    timeout: stats.perSec.timeout,
    canceled: stats.perSec.canceled,
    lost: stats.perSec.lost,
    pending: stats.states.pending,
    running: stats.states.running,
    queueWaitP50Ms: stats.queueWaitMs.p50,
    queueWaitP99Ms: stats.queueWaitMs.p99,
    commitMs: stats.commit.ms,
    writerQueue: stats.writerQueue,
    dbBytes: stats.dbBytes,
  };
  const series = Object.fromEntries(
    Object.entries(history.series).map(([name, column]) => [
      name,
      [...column, values[name as keyof History["series"]] ?? null].slice(-keep || undefined),
    ]),
  ) as unknown as History["series"];
  return { ...history, at: [...history.at, stats.at].slice(-keep || undefined), series };
}
