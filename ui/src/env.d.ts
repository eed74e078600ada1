/// <reference types="vite/client" />

import type { Messages } from "@/i18n";

declare module "vue-i18n" {
  // eslint-disable-next-line @typescript-eslint/no-empty-object-type -- vue-i18n's own way
  export interface DefineLocaleMessage extends Messages {}
}
