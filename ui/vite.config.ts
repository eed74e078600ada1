import { readdir, readFile, writeFile } from "node:fs/promises";
import { join, resolve } from "node:path";
import { fileURLToPath } from "node:url";
import { gzipSync } from "node:zlib";

import VueI18nPlugin from "@intlify/unplugin-vue-i18n/vite";
import vue from "@vitejs/plugin-vue";
import type { Plugin } from "vite";
import { defineConfig } from "vitest/config";

const here = fileURLToPath(new URL(".", import.meta.url));
const outDir = process.env["PLUM_UI_OUT"] ?? resolve(here, "../plumd/static");

/** plumd sends NAME.gz to whoever accepts it, so that nothing is compressed at run time. */
function gzipped(): Plugin {
  return {
    name: "plum-gzipped",
    apply: "build",
    async closeBundle() {
      const folder = join(outDir, "assets");
      for (const name of await readdir(folder)) {
        const content = await readFile(join(folder, name));
        const packed = gzipSync(content, { level: 9 });
        if (packed.length < content.length) await writeFile(join(folder, `${name}.gz`), packed);
      }
    },
  };
}

export default defineConfig({
  plugins: [
    vue(),
    // Messages are compiled here, so the browser needs no compiler and the page no eval.
    VueI18nPlugin({
      include: resolve(here, "src/locales/*.json"),
      runtimeOnly: true,
      dropMessageCompiler: true,
      fullInstall: false,
    }),
    gzipped(),
  ],
  resolve: { alias: { "@": resolve(here, "src") } },
  build: {
    outDir,
    emptyOutDir: true,
    target: "es2022",
    assetsInlineLimit: 0,
    modulePreload: { polyfill: false },
    reportCompressedSize: false,
    chunkSizeWarningLimit: 900,
  },
  server: {
    host: "127.0.0.1",
    proxy: { "/v1": process.env["PLUM_API"] ?? "http://127.0.0.1:8080" },
  },
  test: {
    environment: "jsdom",
    include: ["tests/**/*.test.ts"],
    server: { deps: { inline: ["element-plus"] } },
  },
});
