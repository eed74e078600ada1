/** Times, durations, numbers and sizes as this person reads them. */
import { computed, onScopeDispose, readonly, ref } from "vue";

import { usePreferences } from "./usePreferences";
import { distanceTo } from "@/domain/distance";

const clock = ref(Date.now());
let watchers = 0;
let timer: ReturnType<typeof setInterval> | undefined;

/** The time in Unix ms, each second, while somebody looks. */
export function useNow() {
  watchers += 1;
  if (timer === undefined) {
    clock.value = Date.now();
    timer = setInterval(() => {
      clock.value = Date.now();
    }, 1_000);
  }
  onScopeDispose(() => {
    watchers -= 1;
    if (watchers === 0) {
      clearInterval(timer);
      timer = undefined;
    }
  });
  return readonly(clock);
}

// Made once for all who format: an Intl formatter is costly to make and cheap to use.
const { language, zone } = usePreferences();
const LENGTHS = {
  en: { ms: "ms", s: "s", m: "m", h: "h", d: "d", minutes: "min" },
  zh: { ms: "毫秒", s: "秒", m: "分", h: "小时", d: "天", minutes: "分钟" },
} as const;

/** A length of time, short: 12 ms, 3.4 s, 5 min, 5 m 06 s, 2 h 05 m, 3 d 4 h. */
export function shortDuration(ms: number): string {
  const unit = LENGTHS[language.value];
  const pad = (value: number) => String(value).padStart(2, "0");
  if (ms < 0) return `0 ${unit.ms}`;
  if (ms < 1_000) return `${Math.round(ms)} ${unit.ms}`;
  if (ms < 10_000) return `${(Math.floor(ms / 100) / 10).toFixed(1)} ${unit.s}`;
  const s = Math.floor(ms / 1_000);
  if (s < 60) return `${s} ${unit.s}`;
  const m = Math.floor(s / 60);
  if (s < 3_600)
    return s % 60 ? `${m} ${unit.m} ${pad(s % 60)} ${unit.s}` : `${m} ${unit.minutes}`;
  const h = Math.floor(m / 60);
  if (s < 86_400) return `${h} ${unit.h}${m % 60 ? ` ${pad(m % 60)} ${unit.m}` : ""}`;
  return `${Math.floor(h / 24)} ${unit.d}${h % 24 ? ` ${h % 24} ${unit.h}` : ""}`;
}

/** Figures stand apart from the Chinese words behind them; Intl writes them together. */
function spaced(text: string): string {
  return text.replace(/(\d)(?=\p{Script=Han})/gu, "$1 ");
}

const locale = computed(() => (language.value === "zh" ? "zh-CN" : "en-GB"));
const zoned = computed(() => (zone.value === "utc" ? { timeZone: "UTC" } : {}));
/** Chinese writes a date in figures: in words it has no room in a column. */
const medium = computed<Intl.DateTimeFormatOptions>(() => ({
  year: "numeric",
  month: language.value === "zh" ? "2-digit" : "short",
  day: language.value === "zh" ? "2-digit" : "numeric",
  hour: "2-digit",
  minute: "2-digit",
  second: "2-digit",
}));
const full = computed(
  () => new Intl.DateTimeFormat(locale.value, { ...medium.value, ...zoned.value }),
);
const wallStyle = computed<Intl.DateTimeFormatOptions>(() => ({
  ...medium.value,
  weekday: "short",
  timeZone: "UTC",
}));
const wallSeconds = computed(() => new Intl.DateTimeFormat(locale.value, wallStyle.value));
const wallMinutes = computed(
  () => new Intl.DateTimeFormat(locale.value, { ...wallStyle.value, second: undefined }),
);
const exact = computed(
  () =>
    new Intl.DateTimeFormat(locale.value, {
      year: "numeric",
      month: "short",
      day: "numeric",
      hour: "2-digit",
      minute: "2-digit",
      second: "2-digit",
      fractionalSecondDigits: 3,
      timeZoneName: "short",
      ...zoned.value,
    }),
);
const clockOnly = computed(
  () => new Intl.DateTimeFormat(locale.value, { timeStyle: "medium", ...zoned.value }),
);
const minute = computed(
  () =>
    new Intl.DateTimeFormat(locale.value, {
      hour: "2-digit",
      minute: "2-digit",
      ...zoned.value,
    }),
);
const day = computed(
  () =>
    new Intl.DateTimeFormat(locale.value, { month: "short", day: "numeric", ...zoned.value }),
);
const relative = computed(() => {
  const said = (numeric: "auto" | "always") =>
    new Intl.RelativeTimeFormat(locale.value, { numeric, style: "short" });
  return { words: said("auto"), numbers: said("always") };
});
const dates = new Map<string, Intl.DateTimeFormat | null>();

/** Writes dates of a zone, "" = the browser's, in figures; null where this browser knows no such zone. */
function dateOf(inZone: string): Intl.DateTimeFormat | null {
  let found = dates.get(inZone);
  if (found === undefined) {
    try {
      found = new Intl.DateTimeFormat("sv-SE", inZone ? { timeZone: inZone } : {});
    } catch {
      found = null;
    }
    dates.set(inZone, found);
  }
  return found;
}

/** The calendar day of a moment as a number that grows by one a day; NaN = not known. */
function dayIn(inZone: string, ms: number): number {
  return Date.parse(dateOf(inZone)?.format(ms) ?? "") / 86_400_000;
}

const plain = computed(() => new Intl.NumberFormat(locale.value));
const compact = computed(
  () =>
    new Intl.NumberFormat(locale.value, { notation: "compact", maximumFractionDigits: 1 }),
);

export function useFormat() {
  /** "3 min. ago". now comes from useNow(), so that it moves. inZone: the zone whose days count. */
  function ago(ms: number, now: number, inZone = zone.value === "utc" ? "UTC" : ""): string {
    const { count, unit, worded } = distanceTo(ms, now, (at) => dayIn(inZone, at));
    return spaced(relative.value[worded ? "words" : "numbers"].format(count, unit));
  }

  function bytes(value: number): string {
    const units = ["B", "kB", "MB", "GB", "TB"];
    let size = value;
    let at = 0;
    while (size >= 1_000 && at < units.length - 1) {
      size /= 1_000;
      at += 1;
    }
    const digits = size < 10 && at > 0 ? 1 : 0;
    return `${size.toFixed(digits)} ${units[at] ?? ""}`;
  }

  /** A length of milliseconds that may be small: 0.48 ms, 12 ms, 1.2 s. */
  function latency(ms: number | null | undefined): string {
    if (ms === null || ms === undefined) return "–";
    if (ms === 0 || ms >= 10) return shortDuration(ms);
    return `${ms.toFixed(ms < 1 ? 2 : 1)} ${LENGTHS[language.value].ms}`;
  }

  /** What the clock of some zone shows: 2026-11-27T02:30:00+01:00 as Fri, 27 Nov 2026, 02:30. */
  function wall(local: string): string {
    const shown = Date.parse(`${local.slice(0, 19)}Z`);
    if (Number.isNaN(shown)) return local;
    return spaced((shown % 60_000 === 0 ? wallMinutes : wallSeconds).value.format(shown));
  }

  return {
    locale,
    ago,
    bytes,
    latency,
    wall,
    dateTime: (ms: number) => full.value.format(ms),
    dateTimeExact: (ms: number) => exact.value.format(ms),
    time: (ms: number) => clockOnly.value.format(ms),
    minute: (ms: number) => minute.value.format(ms),
    day: (ms: number) => day.value.format(ms),
    number: (value: number) => plain.value.format(value),
    compact: (value: number) => (value < 10_000 ? plain : compact).value.format(value),
    duration: shortDuration,
  };
}
