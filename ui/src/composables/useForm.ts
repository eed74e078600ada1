/**
 * A form that is checked here before it is sent, and shows what plumd refuses at the field it names.
 *
 * check: the faults of the values, by field. send: the request; what it throws is shown.
 */
import { computed, ref, shallowRef } from "vue";

import { asProblem } from "@/api/client";
import type { Problem } from "@/api/client";

export type Faults = Readonly<Record<string, string>>;

export function useForm<T>(check: () => Faults, send: () => Promise<T>) {
  const tried = ref(false);
  const busy = ref(false);
  const refused = shallowRef<Problem | null>(null);
  const own = computed<Faults>(() => (tried.value ? check() : {}));

  /** The fault to show at a field; also of what lies in it (`steps[2].payload` at `steps[2]`). */
  function fault(field: string): string {
    if (own.value[field]) return own.value[field];
    const named = refused.value?.field ?? "";
    const here = named === field || named.startsWith(`${field}.`) || named.startsWith(`${field}[`);
    return here ? (refused.value?.detail ?? "") : "";
  }

  /** What plumd refused that no field of the form shows. */
  function general(fields: readonly string[]): Problem | null {
    const problem = refused.value;
    return problem !== null && fields.every((field) => fault(field) === "") ? problem : null;
  }

  /** The answer, or null when something is wrong, which is shown then. */
  async function submit(): Promise<T | null> {
    tried.value = true;
    refused.value = null;
    if (Object.keys(check()).length > 0 || busy.value) return null;
    busy.value = true;
    try {
      return await send();
    } catch (error) {
      refused.value = asProblem(error);
      return null;
    } finally {
      busy.value = false;
    }
  }

  return { busy, fault, general, submit };
}
