/** The form of a service's policy, and what plumd takes. */
import type { Schemas } from "@/api/client";

type Policy = Schemas["Policy"];

export const STRATEGIES = [
  "least-loaded",
  "lazy",
  "round-robin",
  "random",
  "weighted",
  "sticky",
] as const;

/** The numbers of the form: where plumd has them, and their bounds. */
export const NUMBERS = [
  { key: "retryPercent", whole: false, field: "retryPercent", min: 0, max: 100 },
  { key: "tryTimeoutSec", whole: false, field: "tryTimeoutSec", min: 0, max: 86_400 },
  { key: "failures", whole: true, field: "breaker.failures", min: 0, max: 1_000 },
  { key: "openSec", whole: false, field: "breaker.openSec", min: 0.1, max: 3_600 },
  { key: "maxOpenSec", whole: false, field: "breaker.maxOpenSec", min: 0.1, max: 86_400 },
  { key: "probes", whole: true, field: "breaker.probes", min: 1, max: 100 },
] as const;

type NumberKey = (typeof NUMBERS)[number]["key"];

export interface Draft {
  strategy: Policy["strategy"];
  numbers: Record<NumberKey, number>;
  fallback: "none" | "service" | "result";
  service: string;
  result: string;
}

export function draftOf(policy: Policy): Draft {
  const { breaker, fallback } = policy;
  const service = fallback?.service;
  return {
    strategy: policy.strategy,
    numbers: {
      retryPercent: policy.retryPercent,
      tryTimeoutSec: policy.tryTimeoutSec,
      ...breaker,
    },
    fallback: !fallback ? "none" : service !== undefined ? "service" : "result",
    service: service ?? "",
    result: fallback && service === undefined ? JSON.stringify(fallback.result, null, 2) : "null",
  };
}

export function policyOf(draft: Draft): Policy {
  const { retryPercent, tryTimeoutSec, failures, openSec, maxOpenSec, probes } = draft.numbers;
  return {
    strategy: draft.strategy,
    retryPercent,
    tryTimeoutSec,
    breaker: { failures, openSec, maxOpenSec, probes },
    fallback:
      draft.fallback === "service"
        ? { service: draft.service }
        : draft.fallback === "result"
          ? { result: JSON.parse(draft.result) as unknown }
          : null,
  };
}
