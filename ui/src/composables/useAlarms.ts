/** Alarms that are active now: all, or those of one device. */
import { api, take } from "@/api/client";
import { useNews, useResource } from "./useResource";

const LIMIT = 1_000;

export function useAlarms(resourceId = "") {
  const found = useResource((signal) =>
    take(
      api.GET("/v1/alarms", {
        params: { query: { limit: LIMIT, ...(resourceId === "" ? {} : { resourceId }) } },
        signal,
      }),
    ),
  );
  useNews("alarm", () => found.refreshSoon());
  useNews("alarmRule", () => found.refreshSoon());
  return found;
}
