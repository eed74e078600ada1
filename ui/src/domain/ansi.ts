/**
 * A line of terminal output as spans with a look. Colours and weight are kept; every other escape
 * (cursor moves, titles, links) is taken out; nothing is ever HTML.
 *
 * Source: ECMA-48, 8.3.117 SGR.
 */
export interface Span {
  readonly text: string;
  readonly look: string;
}

const COLORS = ["black", "red", "green", "yellow", "blue", "magenta", "cyan", "white"] as const;
 
const ESCAPE =
  /\x1b(?:\[([0-9;:<=>?]*)[ -/]*([@-~])|\][^\x07\x1b]*(?:\x07|\x1b\\)?|[PX^_][^\x1b]*(?:\x1b\\)?|[ -/]*[0-~]?)/g;
const CONTROL = /[\x00-\x08\x0b-\x1f\x7f]/g;
 

interface Look {
  color: string;
  bold: boolean;
  dim: boolean;
  italic: boolean;
  under: boolean;
}

const PLAIN: Readonly<Look> = { color: "", bold: false, dim: false, italic: false, under: false };

/** The spans of one line; put together they are its visible text. */
export function spansOf(raw: string): Span[] {
  const line = lastVersion(raw);
  if (!line.includes("\x1b")) return [{ text: clean(line), look: "" }];
  const spans: Span[] = [];
  const look: Look = { ...PLAIN };
  let at = 0;
  const push = (text: string) => {
    if (text !== "") spans.push({ text: clean(text), look: classesOf(look) });
  };
  for (const match of line.matchAll(ESCAPE)) {
    push(line.slice(at, match.index));
    if (match[2] === "m") change(look, match[1] ?? "");
    at = match.index + match[0].length;
  }
  push(line.slice(at));
  return spans;
}

/** What a carriage return left standing: progress bars write over their own line. */
function lastVersion(line: string): string {
  const trimmed = line.endsWith("\r") ? line.slice(0, -1) : line;
  return trimmed.slice(trimmed.lastIndexOf("\r") + 1);
}

function clean(text: string): string {
  return text.replace(CONTROL, "");
}

function classesOf(look: Look): string {
  return [
    look.color && `fg-${look.color}`,
    look.bold && "bold",
    look.dim && "dimmed",
    look.italic && "italic",
    look.under && "under",
  ]
    .filter(Boolean)
    .join(" ");
}

function change(look: Look, parameters: string): void {
  const codes = parameters.split(/[;:]/).map(Number);
  for (let n = 0; n < codes.length; n += 1) {
    const code = codes[n] ?? 0;
    if (code === 0) Object.assign(look, PLAIN);
    else if (code === 1) look.bold = true;
    else if (code === 2) look.dim = true;
    else if (code === 3) look.italic = true;
    else if (code === 4) look.under = true;
    else if (code === 22) look.bold = look.dim = false;
    else if (code === 23) look.italic = false;
    else if (code === 24) look.under = false;
    else if (code === 39) look.color = "";
    else if (code >= 30 && code <= 37) look.color = COLORS[code - 30] ?? "";
    else if (code >= 90 && code <= 97)
      look.color = code === 90 ? "bright-black" : (COLORS[code - 90] ?? "");
    else if (code === 38 || code === 48) {
      // 38;5;N and 38;2;R;G;B: the palette's first sixteen are ours, the others stay plain
      const kind = codes[n + 1];
      const index = codes[n + 2] ?? -1;
      if (code === 38 && kind === 5 && index < 16) look.color = COLORS[index % 8] ?? "";
      n += kind === 5 ? 2 : kind === 2 ? 4 : 0;
    }
  }
}
