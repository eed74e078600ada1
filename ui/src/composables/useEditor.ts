/**
 * A thing that is made, or changed when the address names one: what is to be changed must be here
 * before somebody writes over it.
 *
 * read: asks plumd for it.  fill: puts it into the form.
 */
import { ref, shallowRef } from "vue";
import type { ShallowRef } from "vue";
import { useRoute } from "vue-router";

import { useAction } from "./useAction";

export function useEditor<T extends { readonly version: number }>(
  read: (id: string) => Promise<T>,
  fill: (found: T) => void,
) {
  const route = useRoute();
  const { run } = useAction();
  const id = typeof route.params["id"] === "string" ? route.params["id"] : "";
  const known: ShallowRef<T | null> = shallowRef(null);
  const ready = ref(id === "");

  if (id !== "")
    void run(async () => {
      const found = await read(id);
      known.value = found;
      fill(found);
      ready.value = true;
    });

  /** What says that nobody else changed it meanwhile. */
  function ifMatch(): { "If-Match": string } {
    return { "If-Match": `"${known.value?.version ?? 0}"` };
  }

  return { id, known, ready, ifMatch };
}
