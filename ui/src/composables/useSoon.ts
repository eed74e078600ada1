/** Doing something soon: many wishes make one deed, and deeds keep their distance. */
import { onScopeDispose } from "vue";

const SOON_MS = 250;

/**
 * Answers how to wish. The deed comes SOON_MS after the first wish, but not within distanceMs of the
 * deed before; while nobody looks at the page it waits.
 */
export function useSoon(act: () => void, distanceMs = 1_000): () => void {
  let timer: ReturnType<typeof setTimeout> | undefined;
  let doneAt = 0;
  let hidden = false;
  let over = false;

  function wish(): void {
    if (over || timer !== undefined) return;
    const pause = Math.max(SOON_MS, doneAt + distanceMs - Date.now());
    timer = setTimeout(() => {
      timer = undefined;
      if (document.visibilityState === "hidden") {
        hidden = true;
        return;
      }
      doneAt = Date.now();
      act();
    }, pause);
  }

  function looked(): void {
    if (!hidden || document.visibilityState === "hidden") return;
    hidden = false;
    wish();
  }

  document.addEventListener("visibilitychange", looked);
  onScopeDispose(() => {
    clearTimeout(timer);
    over = true;
    document.removeEventListener("visibilitychange", looked);
  });
  return wish;
}
