/** What a problem is called in this person's language; its detail stays as plumd wrote it. */
import { useI18n } from "vue-i18n";

import type { Problem } from "@/api/client";

export function useProblemText() {
  const { t, te } = useI18n();

  function titleOf(problem: Problem): string {
    const key = `problem.${problem.code}`;
    return te(key) || te(key, "en") ? t(key) : t("problem.other", { code: problem.code });
  }

  return { titleOf };
}
