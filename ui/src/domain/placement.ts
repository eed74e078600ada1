/** Why no node takes a copy, as plumd writes it, for people of any language. */

/** What plumd says of a node, and the message that says it; its groups are the message's values. */
const REASONS: readonly (readonly [RegExp, string, readonly string[]])[] = [
  [/^it is lost$/, "lost", []],
  [/^it is drained$/, "drained", []],
  [/^it must leave this one$/, "leaves", []],
  [/^the label (.+) is missing$/, "label", ["label"]],
  [/^it has (\d+) instances, as many as it may$/, "full", ["count"]],
  [/^it has (\d+) of this entry, as many as a node may$/, "perNode", ["count"]],
  [/^too little memory is left$/, "memory", []],
  [/^too little CPU is left$/, "cpu", []],
  [/^port (\d+) is taken$/, "port", ["port"]],
];

type Say = (key: string, values: Readonly<Record<string, string>>) => string;

/** say: the catalogue.  What is not known is said as plumd wrote it. */
export function placementText(why: string, say: Say): string {
  if (why === "there are no nodes") return say("placement.noNodes", {});
  const found = /^no node fits: (.+)$/.exec(why);
  if (found === null) return why;
  const parts = (found[1] ?? "").split("; ").map((part) => {
    const [, text = part, nodes = ""] = /^(.*) \((\d+) nodes?\)$/.exec(part) ?? [];
    for (const [pattern, key, names] of REASONS) {
      const hit = pattern.exec(text);
      if (hit === null) continue;
      const values = Object.fromEntries(names.map((name, n) => [name, hit[n + 1] ?? ""]));
      return `${say(`placement.${key}`, values)} (${nodes})`;
    }
    return `${text} (${nodes})`;
  });
  return say("placement.noneFits", { why: parts.join(say("placement.and", {})) });
}
