/** The places of the menu: the sidebar, the phone's bar and the palette show the same list. */
import {
  Activity,
  Bell,
  Blocks,
  Boxes,
  CalendarClock,
  Gauge,
  HardDrive,
  LayoutDashboard,
  ListChecks,
  Lock,
  Network,
  Package,
  Play,
  RadioTower,
  Rocket,
  ScrollText,
  Server,
  Webhook,
  Workflow as WorkflowIcon,
  Zap,
} from "@lucide/vue";
import type { Component } from "vue";

export interface Place {
  readonly name: string;
  readonly icon: Component;
}

export interface PlaceGroup {
  readonly key: "watch" | "build" | "fleet" | "system";
  readonly places: readonly Place[];
}

export const GROUPS: readonly PlaceGroup[] = [
  {
    key: "watch",
    places: [
      { name: "overview", icon: LayoutDashboard },
      { name: "tasks", icon: ListChecks },
      { name: "runs", icon: Play },
      { name: "alarms", icon: Bell },
    ],
  },
  {
    key: "build",
    places: [
      { name: "taskDefs", icon: Blocks },
      { name: "workflows", icon: WorkflowIcon },
      { name: "schedules", icon: CalendarClock },
      { name: "triggers", icon: Zap },
      { name: "webhooks", icon: Webhook },
      { name: "brokers", icon: RadioTower },
    ],
  },
  {
    key: "fleet",
    places: [
      { name: "nodes", icon: Server },
      { name: "apps", icon: Package },
      { name: "deployments", icon: Rocket },
      { name: "workers", icon: Boxes },
      { name: "services", icon: Network },
      { name: "devices", icon: Gauge },
      { name: "kv", icon: HardDrive },
      { name: "locks", icon: Lock },
    ],
  },
  {
    key: "system",
    places: [
      { name: "events", icon: ScrollText },
      { name: "health", icon: Activity },
    ],
  },
];

export const PLACES: readonly Place[] = GROUPS.flatMap((group) => group.places);
/** What a phone's bar shows; the rest is behind "more". */
export const PHONE_PLACES: readonly string[] = ["overview", "tasks", "runs", "workers"];
