/** What is measured without an event being written: looked at anew with the daemon's own figures. */
import { useNews } from "./useResource";
import { useSoon } from "./useSoon";

const DISTANCE_MS = 5_000;

/** refresh: asks anew; at most every 5 s, and only while somebody looks. */
export function useMeasured(refresh: () => Promise<void>): void {
  useNews("stats", useSoon(() => void refresh(), DISTANCE_MS));
}
