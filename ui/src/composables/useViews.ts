/** Saved views of a list: kept by plumd for everybody, in the key-value store. */
import { ref, shallowRef } from "vue";

import { api, take } from "@/api/client";

export interface SavedView {
  readonly name: string;
  readonly query: Readonly<Record<string, string>>;
}

const NAMESPACE = "plum-ui";

export function useViews(page: string) {
  const views = shallowRef<SavedView[]>([]);
  const loaded = ref(false);
  const prefix = `views/${page}/`;

  async function load(): Promise<void> {
    const found = await take(
      api.GET("/v1/kv/{ns}", { params: { path: { ns: NAMESPACE }, query: { prefix } } }),
    );
    const kept: SavedView[] = [];
    for (const one of found)
      try {
        const query = JSON.parse(one.value) as Record<string, string>;
        kept.push({ name: one.key.slice(prefix.length), query });
      } catch {
        // somebody else's key
      }
    views.value = kept.sort((a, b) => a.name.localeCompare(b.name));
    loaded.value = true;
  }

  async function save(view: SavedView): Promise<void> {
    await take(
      api.PUT("/v1/kv/{ns}/{key}", {
        params: { path: { ns: NAMESPACE, key: prefix + view.name } },
        body: { value: JSON.stringify(view.query), type: "string" } as never,
      }),
    );
    await load();
  }

  async function remove(name: string): Promise<void> {
    await take(
      api.DELETE("/v1/kv/{ns}/{key}", {
        params: { path: { ns: NAMESPACE, key: prefix + name } },
      }),
    );
    await load();
  }

  return { views, loaded, load, save, remove };
}
