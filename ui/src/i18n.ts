/** Messages of the two languages. English is in the first load, Chinese is fetched when wanted. */
import { watch } from "vue";
import { createI18n } from "vue-i18n";

import { usePreferences } from "@/composables/usePreferences";
import en from "@/locales/en.json";

export type Messages = typeof en;

export const i18n = createI18n({
  legacy: false,
  locale: "en",
  fallbackLocale: "en",
  messages: { en },
});

const { language } = usePreferences();

/** Bring the wanted language in; done before the first picture. */
export async function loadLanguage(): Promise<void> {
  const wanted = language.value;
  if (wanted === "zh" && !(i18n.global.availableLocales as string[]).includes("zh")) {
    const zh = await import("@/locales/zh.json");
    i18n.global.setLocaleMessage("zh" as never, zh.default as never);
  }
  if (wanted === language.value) i18n.global.locale.value = wanted as never;
}

watch(language, () => void loadLanguage());
