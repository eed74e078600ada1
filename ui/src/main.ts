import "@fontsource-variable/inter/wght.css";
import "element-plus/theme-chalk/base.css";
import "element-plus/theme-chalk/dark/css-vars.css";
import "@/styles/tokens.css";
import "@/styles/base.css";
import "@/styles/widgets";
import "@/styles/element.css";

import { createApp } from "vue";
import type { Component } from "vue";

import { connect } from "@/api/events";
import App from "@/App.vue";
import { i18n, loadLanguage } from "@/i18n";
import { fetchPages, router } from "@/router";

connect();
await loadLanguage();
const IDLE_MS = 3_000;
createApp(App as Component).use(i18n).use(router).mount("#app");
setTimeout(() => void fetchPages(), IDLE_MS);
