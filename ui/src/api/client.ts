/** The one way to plumd: typed calls that answer data, or throw a Problem. */
import createClient from "openapi-fetch";

import type { components, paths } from "./schema";

export type Schemas = components["schemas"];
export type Task = Schemas["TaskView"];
export type TaskDef = Schemas["TaskDefView"];
export type Workflow = Schemas["WorkflowView"];
export type Run = Schemas["RunView"];
export type StepRun = Schemas["StepRunView"];
export type Worker = Schemas["WorkerView"];
export type FailureGroup = Schemas["FailureGroup"];
export type Attempt = Schemas["AttemptView"];

export const api = createClient<paths>({
  baseUrl: typeof location === "undefined" ? "http://localhost" : location.origin,
  fetch: (request: Request) => globalThis.fetch(request),
});

/** What plumd refused, or that it could not be reached (status 0, code "unreachable"). */
export class Problem extends Error {
  constructor(
    readonly status: number,
    readonly code: string,
    readonly detail: string,
    readonly field: string,
    /** The detail for programs, where plumd gives it. */
    readonly reason: Schemas["Reason"] | null = null,
  ) {
    super(detail || code);
    this.name = "Problem";
  }
}

interface Answer<T> {
  data?: T;
  error?: unknown;
  response: Response;
}

export interface Page<T> {
  readonly items: T[];
  /** Where the next page begins; "" when there is none. */
  readonly next: string;
}

/** The header by which a change is refused where somebody else was faster. */
export function asSeen(found: { readonly version: number }): { "If-Match": string } {
  return { "If-Match": `"${found.version}"` };
}

/** The data of an answer. Throws: Problem. */
export async function take<T>(asked: Promise<Answer<T>>): Promise<T> {
  return (await answered(asked)).data as T;
}

/** The run that a workflow's action=run made; its other actions answer the workflow. */
export async function takeRun(asked: Promise<Answer<Run | Workflow>>): Promise<Run> {
  const made = await take(asked);
  if (!("runId" in made)) throw new Problem(0, "unreadable_answer", "", "");
  return made;
}

/** A list's page and the cursor of the next one. Throws: Problem. */
export async function takePage<T>(asked: Promise<Answer<T[]>>): Promise<Page<T>> {
  const { data, response } = await answered(asked);
  return { items: data ?? [], next: nextCursor(response.headers.get("link")) };
}

/** The cursor in a Link header. Source: RFC 8288. */
export function nextCursor(link: string | null): string {
  const target = /<([^>]*)>\s*;\s*rel="?next"?/.exec(link ?? "")?.[1];
  return target === undefined
    ? ""
    : (new URL(target, "http://localhost").searchParams.get("cursor") ?? "");
}

async function answered<T>(asked: Promise<Answer<T>>): Promise<Answer<T>> {
  let answer: Answer<T>;
  try {
    answer = await asked;
  } catch (error) {
    if (error instanceof DOMException && error.name === "AbortError") throw error;
    throw new Problem(0, "unreachable", error instanceof Error ? error.message : "", "");
  }
  if (!answer.response.ok) throw problemOf(answer.response.status, answer.error);
  return answer;
}

export function problemOf(status: number, body: unknown): Problem {
  const said = typeof body === "object" && body !== null ? (body as Record<string, unknown>) : {};
  const text = (key: string) => (typeof said[key] === "string" ? said[key] : "");
  const code = text("code") || "unreadable_answer";
  return new Problem(status, code, text("detail"), text("field"), reasonOf(said["reason"]));
}

function reasonOf(said: unknown): Schemas["Reason"] | null {
  if (typeof said !== "object" || said === null) return null;
  return { values: {}, because: [], nodes: 0, ...(said as { code: string }) };
}

/** A problem for showing, whatever was thrown. */
export function asProblem(error: unknown): Problem {
  if (error instanceof Problem) return error;
  return new Problem(0, "page_error", error instanceof Error ? error.message : String(error), "");
}
