/**
 * The one line to plumd's event log. Every screen listens here; none polls.
 *
 * The server sends what changed at most every DIGEST_MS, only the last state of each thing, and the
 * count of what is too much to name. After a cut the browser resumes with Last-Event-ID; where the
 * log does not reach back so far, plumd says `gap` and every listener fetches anew.
 */
import { readonly, ref, shallowRef } from "vue";

import type { Schemas } from "./client";

export type Stats = Schemas["Stats"];
export interface TaskNews {
  readonly taskId: string;
  readonly name: string;
  readonly state: string;
  readonly attempt: number;
  readonly worker: string | null;
  readonly runId: string | null;
  readonly at: number;
}
export interface RunNews {
  readonly runId: string;
  readonly workflowId: string;
  readonly state: string;
  readonly at: number;
}
export interface StepNews {
  readonly runId: string;
  readonly stepId: string;
  readonly state: string;
  readonly at: number;
}
export interface OtherNews {
  readonly id: string;
  readonly what: string;
  readonly facts?: readonly (string | number)[];
}
export interface KeyNews {
  readonly namespace: string;
  readonly key: string;
  readonly version: number;
  readonly deleted: boolean;
}
export interface MoreNews {
  readonly topic: string;
  readonly count: number;
}

export interface NewsByName {
  task: TaskNews;
  run: RunNews;
  step: StepNews;
  worker: OtherNews;
  taskDef: OtherNews;
  workflow: OtherNews;
  service: OtherNews;
  resource: OtherNews;
  schedule: OtherNews;
  trigger: OtherNews;
  node: OtherNews;
  app: OtherNews;
  deployment: OtherNews;
  instance: OtherNews;
  kv: KeyNews;
  lock: OtherNews;
  webhook: OtherNews;
  broker: OtherNews;
  alert: OtherNews;
  alarm: OtherNews;
  alarmRule: OtherNews;
  taskDeleted: OtherNews;
  runDeleted: OtherNews;
  more: MoreNews;
  stats: Stats;
  /** Everything must be fetched anew: the log was cut, or the page slept. */
  gap: null;
}

export type NewsName = keyof NewsByName;
type Listener<N extends NewsName> = (news: NewsByName[N]) => void;

export type LinkState = "connecting" | "live" | "lost";

const DIGEST_MS = 250;
/** A browser holds six lines to one server, and all its tabs share them. So one that nobody looks at gives
 * its line back after this time; looked at again it resumes where it was. */
const UNSEEN_MS = 3_000;
const SILENCE_MS = 8_000; // stats come each second, so silence means that the line is dead
const BACKOFF_MS = [500, 1_000, 2_000, 4_000, 8_000] as const;
const NAMES: readonly NewsName[] = [
  "task",
  "run",
  "step",
  "worker",
  "taskDef",
  "workflow",
  "service",
  "resource",
  "schedule",
  "trigger",
  "node",
  "app",
  "deployment",
  "instance",
  "kv",
  "lock",
  "webhook",
  "broker",
  "alert",
  "alarm",
  "alarmRule",
  "taskDeleted",
  "runDeleted",
  "more",
  "stats",
  "gap",
];

/** What the event log tells: all but the figures and what is wrong with the line. */
export const EVENT_NAMES = NAMES.filter((name) => name !== "stats" && name !== "gap");

const listeners = new Map<NewsName, Set<(news: never) => void>>();
const link = ref<LinkState>("connecting");
const stats = shallowRef<Stats | null>(null);
const lostAt = ref(0);
let source: EventSource | null = null;
let lastId = "";
let opened = false;
let heardAt = 0;
let failures = 0;
/** What was heard and is not told yet. */
let waiting: (() => void)[] = [];
let retry: ReturnType<typeof setTimeout> | undefined;
let resting: ReturnType<typeof setTimeout> | undefined;
let connected = false;

/** How the line to plumd is. lostAt: Unix ms since when it is lost, 0 while live. */
export const linkState = readonly(link);
export const linkLostAt = readonly(lostAt);
/** The newest figures of the daemon; null before the first. */
export const liveStats = stats;

/** Hear of one kind of news; answers how to stop. */
export function listen<N extends NewsName>(name: N, listener: Listener<N>): () => void {
  const known = listeners.get(name) ?? new Set();
  listeners.set(name, known);
  known.add(listener);
  return () => known.delete(listener);
}

function tell<N extends NewsName>(name: N, news: NewsByName[N]): void {
  for (const listener of listeners.get(name) ?? []) (listener as Listener<N>)(news);
}

/**
 * Tell it with all that comes with it, in one go: the browser gives a digest event by event and
 * would draw after each, so of two hundred changes there would be two hundred drawings.
 */
function tellTogether<N extends NewsName>(name: N, news: NewsByName[N]): void {
  waiting.push(() => tell(name, news));
  if (waiting.length === 1)
    setTimeout(() => {
      const all = waiting;
      waiting = [];
      for (const one of all) one();
    });
}

function heard(event: MessageEvent<string>, name: NewsName): void {
  heardAt = Date.now();
  if (event.lastEventId) lastId = event.lastEventId;
  const news: unknown = JSON.parse(event.data);
  if (name === "stats") {
    stats.value = news as Stats;
    nowLive();
  }
  if (name === "gap") tellTogether("gap", null);
  else tellTogether(name, news as never);
}

function nowLive(): void {
  failures = 0;
  lostAt.value = 0;
  link.value = "live";
}

function nowLost(): void {
  if (link.value !== "lost") lostAt.value = Date.now();
  link.value = "lost";
}

function open(): void {
  clearTimeout(retry);
  source?.close();
  const query = new URLSearchParams({ digest: String(DIGEST_MS) });
  if (lastId) query.set("lastEventId", lastId);
  source = new EventSource(`/v1/events?${query.toString()}`);
  heardAt = Date.now();
  source.onopen = () => {
    heardAt = Date.now();
    if (!opened) nowLive(); // after a cut the first figures say that all is well again
    opened = true;
    // Without a number to resume from, what was fetched before the line stood may be old.
    if (lastId === "") tell("gap", null);
  };
  source.onerror = () => reopen();
  for (const name of NAMES)
    source.addEventListener(name, (event: MessageEvent<string>) => heard(event, name));
}

function reopen(): void {
  source?.close();
  source = null;
  nowLost();
  const pause = BACKOFF_MS[Math.min(failures, BACKOFF_MS.length - 1)] ?? 8_000;
  failures += 1;
  clearTimeout(retry);
  retry = setTimeout(open, pause * (0.5 + Math.random() / 2));
}

function watch(): void {
  // A laptop that slept, or a line that died without a word: the browser itself would not notice.
  if (source !== null && Date.now() - heardAt > SILENCE_MS) {
    failures = 0;
    reopen();
  }
}

/** Give the line back: nobody looks. */
function rest(): void {
  clearTimeout(retry);
  if (source === null && link.value !== "lost") return;
  source?.close();
  source = null;
  lostAt.value = 0;
  link.value = "connecting";
}

function isSeen(): boolean {
  return document.visibilityState === "visible";
}

/** Somebody began to look, or to look elsewhere. */
function turned(): void {
  clearTimeout(resting);
  if (!isSeen()) resting = setTimeout(rest, UNSEEN_MS);
  else if (source === null && link.value === "connecting") open();
  else watch();
}

/** Open the line, once, when the app starts; as soon as it is looked at. */
export function connect(): void {
  if (connected) return;
  connected = true;
  if (isSeen()) open();
  setInterval(watch, 1_000);
  globalThis.addEventListener("online", () => retryNow());
  globalThis.addEventListener("pagehide", rest);
  globalThis.addEventListener("pageshow", turned);
  document.addEventListener("visibilitychange", turned);
}

/** Try again at once: the user asked, or the network came back. */
export function retryNow(): void {
  if (link.value === "lost" && isSeen()) {
    failures = 0;
    open();
  }
}
