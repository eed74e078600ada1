/** What went wrong in this person's language, by its code; what has none stays as plumd wrote it. */
import { useI18n } from "vue-i18n";

import type { Problem } from "@/api/client";
import { reasonText } from "@/domain/reason";

/** Codes whose message says no more than they do. */
const WHOLE = new Set(["rejected", "queue_timeout", "concurrency_skipped", "concurrency_replaced"]);

export function useProblemText() {
  const { t, te } = useI18n();

  function titleOf(problem: Problem): string {
    const key = `problem.${problem.code}`;
    return te(key) || te(key, "en") ? t(key) : t("problem.other", { code: problem.code });
  }

  function detailOf(problem: Problem): string {
    return reasonText({ why: problem.detail, reason: problem.reason }, t, te);
  }

  /** What a code of a failure means; "" where it is a worker's own, or says nothing. */
  function codeText(code: string): string {
    const key = [`because.${code}`, `problem.${code}`].find((one) => te(one));
    return key === undefined ? "" : t(key);
  }

  /** The message beside what the code means, "" where it says no more. */
  function messageBeside(error: { readonly code: string; readonly message: string }): string {
    return WHOLE.has(error.code) ? "" : error.message;
  }

  /** Both in a line. */
  function failureText(error: { readonly code: string; readonly message: string }): string {
    const [what, which] = [codeText(error.code), messageBeside(error)];
    return what && which ? t("common.of", { what, which }) : what || which || error.code;
  }

  return { titleOf, detailOf, codeText, messageBeside, failureText };
}
