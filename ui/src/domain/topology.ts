/** What stands on which node, for one look at the whole fleet. */
import type { Schemas, Worker } from "@/api/client";
import { memoryShare } from "./node";

export type Node = Schemas["NodeView"];
export type Instance = Schemas["InstanceView"];
export type Device = Schemas["DeviceView"];

export interface NodeTile {
  readonly node: Node;
  readonly instances: readonly Instance[];
  readonly workers: readonly Worker[];
  readonly devices: readonly Device[];
  /** Places for instances that are free; 0 where a node takes any number. */
  readonly free: number;
  /** Shares, 0 .. 1; null: not measured. */
  readonly cpu: number | null;
  readonly memory: number | null;
}

/** So many nodes are shown with all that is on them; more become small tiles. */
export const CARDS_MAX = 12;

const TROUBLE: readonly string[] = ["Unhealthy", "Offline", "Draining"];

function byNode<T>(things: readonly T[], nodeId: (thing: T) => string | null): Map<string, T[]> {
  const found = new Map<string, T[]>();
  for (const thing of things) {
    const id = nodeId(thing);
    if (!id) continue;
    const here = found.get(id);
    if (here === undefined) found.set(id, [thing]);
    else here.push(thing);
  }
  return found;
}

/** Every node with what is on it: those in trouble first, then by name, numbers as numbers. */
export function tilesOf(
  nodes: readonly Node[],
  instances: readonly Instance[],
  workers: readonly Worker[],
  devices: readonly Device[],
): NodeTile[] {
  const copies = byNode(instances, (one) => one.nodeId);
  const programs = byNode(workers, (one) => one.nodeId);
  const things = byNode(devices, (one) => one.nodeId);
  const rank = (node: Node) => {
    const place = TROUBLE.indexOf(node.health);
    return place < 0 ? TROUBLE.length : place;
  };
  return [...nodes]
    .sort(
      (a, b) => rank(a) - rank(b) || a.nodeId.localeCompare(b.nodeId, "en", { numeric: true }),
    )
    .map((node) => {
      const here = (copies.get(node.nodeId) ?? []).sort(
        (a, b) => a.entry.localeCompare(b.entry) || a.ordinal - b.ordinal,
      );
      return {
        node,
        instances: here,
        workers: programs.get(node.nodeId) ?? [],
        devices: things.get(node.nodeId) ?? [],
        free: Math.max(0, node.instancesMax - here.length),
        cpu: node.facts.cpus > 0 ? node.facts.cpuPercent / 100 : null,
        memory: node.facts.memTotal > 0 ? memoryShare(node.facts) : null,
      };
    });
}

/** How many nodes have which health, the most frequent first. */
export function healthCounts(tiles: readonly NodeTile[]): [string, number][] {
  const counts = new Map<string, number>();
  for (const { node } of tiles) counts.set(node.health, (counts.get(node.health) ?? 0) + 1);
  return [...counts].sort(([, a], [, b]) => b - a);
}
