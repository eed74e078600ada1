/** A problem in this person's language; a detail that has no code stays as plumd wrote it. */
import { useI18n } from "vue-i18n";

import type { Problem } from "@/api/client";
import { reasonText } from "@/domain/reason";

export function useProblemText() {
  const { t, te } = useI18n();

  function titleOf(problem: Problem): string {
    const key = `problem.${problem.code}`;
    return te(key) || te(key, "en") ? t(key) : t("problem.other", { code: problem.code });
  }

  function detailOf(problem: Problem): string {
    return reasonText({ why: problem.detail, reason: problem.reason }, t, te);
  }

  return { titleOf, detailOf };
}
