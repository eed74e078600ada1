/** JSON texts: coloured for reading, and checked while one writes them. */

export interface Token {
  readonly kind: "key" | "string" | "number" | "word" | "plain";
  readonly text: string;
}

const TOKEN = /("(?:\\.|[^"\\])*")(\s*:)?|(-?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?)|\b(true|false|null)\b/g;

/** The text in pieces, each with what it is; put together again they are the text. */
export function jsonTokens(text: string): Token[] {
  const tokens: Token[] = [];
  let at = 0;
  for (const match of text.matchAll(TOKEN)) {
    if (match.index > at) tokens.push({ kind: "plain", text: text.slice(at, match.index) });
    const [whole, string, colon, number] = match;
    if (string !== undefined) {
      tokens.push({ kind: colon === undefined ? "string" : "key", text: string });
      if (colon !== undefined) tokens.push({ kind: "plain", text: colon });
    } else tokens.push({ kind: number === undefined ? "word" : "number", text: whole });
    at = match.index + whole.length;
  }
  if (at < text.length) tokens.push({ kind: "plain", text: text.slice(at) });
  return tokens;
}

export type Parsed = { readonly ok: true; readonly value: unknown } | { readonly ok: false; readonly why: string };

/** What a text means as JSON; an empty one means nothing (undefined). */
export function parseJson(text: string): Parsed {
  if (text.trim() === "") return { ok: true, value: undefined };
  try {
    return { ok: true, value: JSON.parse(text) };
  } catch (error) {
    return { ok: false, why: error instanceof Error ? error.message : String(error) };
  }
}
