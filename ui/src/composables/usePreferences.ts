/** What one person likes, kept in this browser: language, theme, time zone, folded menu. */
import { computed, ref, watch } from "vue";

export type Language = "en" | "zh";
export type Theme = "auto" | "light" | "dark";
export type Zone = "local" | "utc";

const KEY = "plum.preferences";

interface Kept {
  language: Language;
  theme: Theme;
  zone: Zone;
  folded: boolean;
}

function initial(): Kept {
  const first: Kept = {
    language: navigator.language.toLowerCase().startsWith("zh") ? "zh" : "en",
    theme: "auto",
    zone: "local",
    folded: false,
  };
  try {
    const kept = JSON.parse(localStorage.getItem(KEY) ?? "{}") as Partial<Kept>;
    if (kept.language === "en" || kept.language === "zh") first.language = kept.language;
    if (kept.theme === "light" || kept.theme === "dark") first.theme = kept.theme;
    if (kept.zone === "utc") first.zone = kept.zone;
    first.folded = kept.folded === true;
  } catch {
    // nothing readable was kept
  }
  return first;
}

const start = initial();
const language = ref<Language>(start.language);
const theme = ref<Theme>(start.theme);
const zone = ref<Zone>(start.zone);
const folded = ref(start.folded);

const systemDark = ref(false);
const media = typeof matchMedia === "undefined" ? null : matchMedia("(prefers-color-scheme: dark)");
if (media !== null) {
  systemDark.value = media.matches;
  media.addEventListener("change", (event) => {
    systemDark.value = event.matches;
  });
}

const dark = computed(() => (theme.value === "auto" ? systemDark.value : theme.value === "dark"));

watch(
  [language, theme, zone, folded],
  () => {
    const kept: Kept = {
      language: language.value,
      theme: theme.value,
      zone: zone.value,
      folded: folded.value,
    };
    try {
      localStorage.setItem(KEY, JSON.stringify(kept));
    } catch {
      // a browser that keeps nothing still works
    }
  },
  { flush: "sync" },
);
watch(dark, (on) => document.documentElement.classList.toggle("dark", on), { immediate: true });
watch(
  language,
  (now) => {
    document.documentElement.lang = now === "zh" ? "zh-CN" : "en";
  },
  { immediate: true },
);

export function usePreferences() {
  return { language, theme, zone, folded, dark };
}
