/** What keeps an instance from running, and why it ends, in this person's language. */
import { useI18n } from "vue-i18n";

import type { Instance } from "@/domain/deployment";
import { reasonText } from "@/domain/reason";

export function useInstanceText() {
  const { t, te } = useI18n();

  function retired(code: string): string {
    const key = `instance.retiredBy.${code}`;
    return t("instance.retired", { why: te(key) ? t(key) : code });
  }

  function instanceText(one: Instance): string {
    return [one.retired ? retired(one.retired) : "", reasonText(one, t, te)]
      .filter(Boolean)
      .join(" · ");
  }

  return { instanceText };
}
