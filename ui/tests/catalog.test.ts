import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";

import { describe, expect, it } from "vitest";

type Tree = { [key: string]: string | Tree };

function leaves(tree: Tree, path = ""): Map<string, string> {
  const found = new Map<string, string>();
  for (const [key, value] of Object.entries(tree)) {
    const here = path === "" ? key : `${path}.${key}`;
    if (typeof value === "string") found.set(here, value);
    else for (const [inner, text] of leaves(value, here)) found.set(inner, text);
  }
  return found;
}

function sources(folder: string): string[] {
  return readdirSync(folder, { withFileTypes: true }).flatMap((entry) => {
    const path = join(folder, entry.name);
    if (entry.isDirectory()) return sources(path);
    return /\.(vue|ts)$/.test(entry.name) && !entry.name.endsWith(".d.ts") ? [path] : [];
  });
}

const src = join(import.meta.dirname, "../src");
/** As they are written; an import would give what the build makes of them. */
const catalog = (name: string) =>
  leaves(JSON.parse(readFileSync(join(src, "locales", name), "utf8")) as Tree);
const english = catalog("en.json");
const chinese = catalog("zh.json");
const texts = sources(src).map((path) => readFileSync(path, "utf8"));

/** Keys written out: t("a.b"), keypath="a.b". */
const plain = new Set(
  texts.flatMap((text) =>
    [...text.matchAll(/(?:\bte?\(\s*|\bkeypath=)["']([^"']+)["']/g)].map((m) => m[1] ?? ""),
  ),
);
/** Keys put together: t(`state.${x}`) and `problem.${code}`; each is a pattern of keys. */
const patterns = texts
  .flatMap((text) => [...text.matchAll(/`([a-zA-Z]+\.[^`\s]*\$\{[^`]*)`/g)].map((m) => m[1] ?? ""))
  .filter((template) => !template.startsWith("defaultPayload.")) // a field's name
  .map((template) => {
    const escaped = template
      .split(/\$\{[^}]*\}/)
      .map((part) => part.replaceAll(".", "\\."))
      .join("[^.]+");
    return new RegExp(`^${escaped}$`);
  });

/** Names, and what is written the same everywhere. */
const SAME = [
  "filter.label",
  "json.ok",
  "shell.brand",
  "shell.version",
  "workerKind.http",
  "workerKind.grpc",
  "deployment.checks.http",
  "deployment.checks.grpc",
];

describe("the message catalogues", () => {
  it("have the same keys in both languages", () => {
    expect([...chinese.keys()].sort()).toEqual([...english.keys()].sort());
  });

  it("have the same placeholders in both languages", () => {
    const slots = (text: string) => [...text.matchAll(/\{(\w+)\}/g)].map((m) => m[1]).sort();
    for (const [key, text] of english)
      for (const form of text.split(" | ")) // of one thing, of several
        expect([key, slots(chinese.get(key) ?? "")]).toEqual([key, slots(form)]);
  });

  it("have a text for every key", () => {
    for (const [key, text] of [...english, ...chinese]) expect(text, key).not.toBe("");
  });

  it("hold every key that the code names", () => {
    expect([...plain].filter((key) => !english.has(key))).toEqual([]);
    for (const pattern of patterns)
      expect([...english.keys()].some((key) => pattern.test(key)), pattern.source).toBe(true);
  });

  it("hold no key that the code does not name", () => {
    const unused = [...english.keys()].filter(
      (key) => !plain.has(key) && !patterns.some((pattern) => pattern.test(key)),
    );
    expect(unused).toEqual([]);
  });

  it("are translated", () => {
    const words = /[a-z]{4}/i;
    const same = [...english]
      .filter(([key, text]) => chinese.get(key) === text)
      .filter(([, text]) => words.test(text.replaceAll(/\{\w+\}/g, "")));
    expect(same.map(([key]) => key)).toEqual(SAME);
  });
});
