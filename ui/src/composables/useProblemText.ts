/** What went wrong in this person's language, by its code; what has none stays as plumd wrote it. */
import { useI18n } from "vue-i18n";

import type { Problem } from "@/api/client";
import { reasonText } from "@/domain/reason";

/** Codes whose message says no more than they do. */
const WHOLE = new Set([
  "concurrency_replaced",
  "concurrency_skipped",
  "no_answer",
  "not_subscribed",
  "qos_low",
  "queue_timeout",
  "rejected",
]);

export function useProblemText() {
  const { t, te, locale } = useI18n();

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

  /** In a line. plumd's own messages are English: who reads that needs no other words for them. */
  function failureText(error: { readonly code: string; readonly message: string }): string {
    const [what, which] = [codeText(error.code), messageBeside(error)];
    if (locale.value === "en" && which) return which;
    return what && which ? t("common.of", { what, which }) : what || which || error.code;
  }

  return { titleOf, detailOf, codeText, messageBeside, failureText };
}
