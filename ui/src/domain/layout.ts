/** Where the boxes of a graph stand. */
import dagre from "@dagrejs/dagre";

import type { Spot } from "./spot";

export const BOX_WIDTH = 210;
export const BOX_HEIGHT = 62;
/** Above it dagre takes seconds, and a plain layering is as good to look at. */
const DAGRE_MAX = 250;
const SWEEPS = 4;

/** The top left corner of each box. down: the graph grows downwards, else to the right. */
export function layout(
  ids: readonly string[],
  links: readonly (readonly [string, string])[],
  down = false,
): Map<string, Spot> {
  return ids.length > DAGRE_MAX ? layered(ids, links, down) : byDagre(ids, links, down);
}

interface Standing {
  readonly id: string;
  readonly needs: readonly { readonly step: string }[];
  readonly position?: Spot;
}

/** Where the steps of a scope stand: where somebody put them, else where the layout finds room. */
export function spotsOf(steps: readonly Standing[], down = false): Map<string, Spot> {
  const put = steps.flatMap((one) => (one.position === undefined ? [] : [one.position]));
  if (put.length === 0)
    return layout(
      steps.map((one) => one.id),
      steps.flatMap((one) => one.needs.map((need) => [need.step, one.id] as const)),
      down,
    );
  let y = Math.max(...put.map((spot) => spot.y));
  return new Map(
    steps.map((one) => {
      if (one.position !== undefined) return [one.id, one.position];
      y += BOX_HEIGHT + 40;
      return [one.id, { x: 0, y }];
    }),
  );
}

function byDagre(
  ids: readonly string[],
  links: readonly (readonly [string, string])[],
  down: boolean,
): Map<string, Spot> {
  const graph = new dagre.graphlib.Graph();
  graph.setGraph({ rankdir: down ? "TB" : "LR", nodesep: 26, ranksep: down ? 34 : 56 });
  graph.setDefaultEdgeLabel(() => ({}));
  for (const id of ids) graph.setNode(id, { width: BOX_WIDTH, height: BOX_HEIGHT });
  const known = new Set(ids);
  for (const [from, to] of links) if (known.has(from) && known.has(to)) graph.setEdge(from, to);
  dagre.layout(graph);
  return new Map(
    ids.map((id) => {
      const at = graph.node(id) as { x: number; y: number };
      return [id, { x: at.x - BOX_WIDTH / 2, y: at.y - BOX_HEIGHT / 2 }];
    }),
  );
}

/**
 * Layers by the longest way, each ordered by where its neighbours stand.
 *
 * Source: Sugiyama, Tagawa, Toda, "Methods for Visual Understanding of Hierarchical System
 * Structures", IEEE SMC-11, 1981 (barycentres). Edges of a circle are left out.
 */
export function layered(
  ids: readonly string[],
  links: readonly (readonly [string, string])[],
  down = false,
): Map<string, Spot> {
  const after = new Map<string, string[]>(ids.map((id) => [id, []]));
  const before = new Map<string, string[]>(ids.map((id) => [id, []]));
  for (const [from, to] of links) {
    if (!after.has(from) || !after.has(to)) continue;
    after.get(from)?.push(to);
    before.get(to)?.push(from);
  }
  const rank = new Map<string, number>(ids.map((id) => [id, 0]));
  const left = new Map(ids.map((id) => [id, before.get(id)?.length ?? 0]));
  const free = ids.filter((id) => left.get(id) === 0);
  for (let n = 0; n < free.length; n += 1) {
    const id = free[n] ?? "";
    for (const to of after.get(id) ?? []) {
      rank.set(to, Math.max(rank.get(to) ?? 0, (rank.get(id) ?? 0) + 1));
      left.set(to, (left.get(to) ?? 0) - 1);
      if (left.get(to) === 0) free.push(to);
    }
  }
  const layers: string[][] = [];
  for (const id of ids) (layers[rank.get(id) ?? 0] ??= []).push(id);
  const place = new Map<string, number>();
  const settle = (layer: readonly string[]) =>
    layer.forEach((id, n) => place.set(id, n - layer.length / 2));
  layers.forEach(settle);
  for (let sweep = 0; sweep < SWEEPS; sweep += 1) {
    const forward = sweep % 2 === 0;
    const beside = forward ? before : after;
    for (const layer of forward ? layers : [...layers].reverse()) {
      const middle = new Map(
        layer.map((id) => {
          const near = beside.get(id) ?? [];
          const sum = near.reduce((all, one) => all + (place.get(one) ?? 0), 0);
          return [id, near.length === 0 ? (place.get(id) ?? 0) : sum / near.length];
        }),
      );
      layer.sort((a, b) => (middle.get(a) ?? 0) - (middle.get(b) ?? 0));
      settle(layer);
    }
  }
  const [along, across] = down ? [BOX_HEIGHT + 40, BOX_WIDTH + 26] : [BOX_WIDTH + 60, BOX_HEIGHT + 26];
  return new Map(
    layers.flatMap((layer, n) =>
      layer.map((id, m): [string, Spot] => {
        const [a, b] = [n * along, (m - layer.length / 2) * across];
        return [id, down ? { x: b, y: a } : { x: a, y: b }];
      }),
    ),
  );
}
