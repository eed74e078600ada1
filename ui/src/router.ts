/** Every page with its address. A page is fetched when it is first visited. */
import { watch } from "vue";
import { createRouter, createWebHistory } from "vue-router";
import type { RouteRecordRaw } from "vue-router";

import { linkState } from "@/api/events";

/** place: which entry of the menu is lit. */
declare module "vue-router" {
  interface RouteMeta {
    place?: string;
  }
}

const routes: RouteRecordRaw[] = [
  { path: "/", name: "overview", component: () => import("@/pages/Overview.vue") },
  { path: "/tasks", name: "tasks", component: () => import("@/pages/TaskList.vue") },
  {
    path: "/tasks/:id",
    name: "task",
    component: () => import("@/pages/TaskDetail.vue"),
    meta: { place: "tasks" },
  },
  { path: "/task-defs", name: "taskDefs", component: () => import("@/pages/TaskDefList.vue") },
  {
    path: "/task-defs/new",
    name: "taskDefNew",
    component: () => import("@/pages/TaskDefEdit.vue"),
    meta: { place: "taskDefs" },
  },
  {
    path: "/task-defs/:id",
    name: "taskDef",
    component: () => import("@/pages/TaskDefDetail.vue"),
    meta: { place: "taskDefs" },
  },
  {
    path: "/task-defs/:id/edit",
    name: "taskDefEdit",
    component: () => import("@/pages/TaskDefEdit.vue"),
    meta: { place: "taskDefs" },
  },
  { path: "/workflows", name: "workflows", component: () => import("@/pages/WorkflowList.vue") },
  {
    path: "/workflows/new",
    name: "workflowNew",
    component: () => import("@/pages/WorkflowEdit.vue"),
    meta: { place: "workflows" },
  },
  {
    path: "/workflows/:id",
    name: "workflow",
    component: () => import("@/pages/WorkflowDetail.vue"),
    meta: { place: "workflows" },
  },
  {
    path: "/workflows/:id/edit",
    name: "workflowEdit",
    component: () => import("@/pages/WorkflowEdit.vue"),
    meta: { place: "workflows" },
  },
  {
    path: "/workflows/:id/simulate",
    name: "workflowSimulate",
    component: () => import("@/pages/WorkflowSimulate.vue"),
    meta: { place: "workflows" },
  },
  { path: "/schedules", name: "schedules", component: () => import("@/pages/ScheduleList.vue") },
  {
    path: "/schedules/new",
    name: "scheduleNew",
    component: () => import("@/pages/ScheduleEdit.vue"),
    meta: { place: "schedules" },
  },
  {
    path: "/schedules/:id",
    name: "schedule",
    component: () => import("@/pages/ScheduleDetail.vue"),
    meta: { place: "schedules" },
  },
  {
    path: "/schedules/:id/edit",
    name: "scheduleEdit",
    component: () => import("@/pages/ScheduleEdit.vue"),
    meta: { place: "schedules" },
  },
  { path: "/triggers", name: "triggers", component: () => import("@/pages/TriggerList.vue") },
  {
    path: "/triggers/new",
    name: "triggerNew",
    component: () => import("@/pages/TriggerEdit.vue"),
    meta: { place: "triggers" },
  },
  {
    path: "/triggers/:id",
    name: "trigger",
    component: () => import("@/pages/TriggerDetail.vue"),
    meta: { place: "triggers" },
  },
  {
    path: "/triggers/:id/edit",
    name: "triggerEdit",
    component: () => import("@/pages/TriggerEdit.vue"),
    meta: { place: "triggers" },
  },
  { path: "/webhooks", name: "webhooks", component: () => import("@/pages/WebhookList.vue") },
  {
    path: "/webhooks/:id",
    name: "webhook",
    component: () => import("@/pages/WebhookDetail.vue"),
    meta: { place: "webhooks" },
  },
  { path: "/brokers", name: "brokers", component: () => import("@/pages/BrokerList.vue") },
  { path: "/runs", name: "runs", component: () => import("@/pages/RunList.vue") },
  {
    path: "/runs/:id",
    name: "run",
    component: () => import("@/pages/RunDetail.vue"),
    meta: { place: "runs" },
  },
  {
    path: "/runs/:id/compare",
    name: "runCompare",
    component: () => import("@/pages/RunCompare.vue"),
    meta: { place: "runs" },
  },
  { path: "/workers", name: "workers", component: () => import("@/pages/WorkerList.vue") },
  {
    path: "/workers/:id",
    name: "worker",
    component: () => import("@/pages/WorkerDetail.vue"),
    meta: { place: "workers" },
  },
  { path: "/services", name: "services", component: () => import("@/pages/ServiceList.vue") },
  { path: "/devices", name: "devices", component: () => import("@/pages/DeviceList.vue") },
  {
    path: "/devices/:id",
    name: "device",
    component: () => import("@/pages/DeviceDetail.vue"),
    meta: { place: "devices" },
  },
  { path: "/alarms", name: "alarms", component: () => import("@/pages/AlarmList.vue") },
  { path: "/nodes", name: "nodes", component: () => import("@/pages/NodeList.vue") },
  {
    path: "/nodes/:id",
    name: "node",
    component: () => import("@/pages/NodeDetail.vue"),
    meta: { place: "nodes" },
  },
  { path: "/apps", name: "apps", component: () => import("@/pages/AppList.vue") },
  {
    path: "/deployments",
    name: "deployments",
    component: () => import("@/pages/DeploymentList.vue"),
  },
  {
    path: "/deployments/new",
    name: "deploymentNew",
    component: () => import("@/pages/DeploymentEdit.vue"),
    meta: { place: "deployments" },
  },
  {
    path: "/deployments/:id",
    name: "deployment",
    component: () => import("@/pages/DeploymentDetail.vue"),
    meta: { place: "deployments" },
  },
  {
    path: "/deployments/:id/edit",
    name: "deploymentEdit",
    component: () => import("@/pages/DeploymentEdit.vue"),
    meta: { place: "deployments" },
  },
  {
    path: "/instances/:id",
    name: "instance",
    component: () => import("@/pages/InstanceDetail.vue"),
    meta: { place: "deployments" },
  },
  { path: "/kv", name: "kv", component: () => import("@/pages/KvBrowser.vue") },
  { path: "/locks", name: "locks", component: () => import("@/pages/LockList.vue") },
  { path: "/events", name: "events", component: () => import("@/pages/EventList.vue") },
  { path: "/health", name: "health", component: () => import("@/pages/SystemHealth.vue") },
  { path: "/:rest(.*)*", name: "lost", component: () => import("@/pages/NotFound.vue") },
];

/** Fetch the pages that were not visited yet, while nobody waits: then they open at once, and also
 * while plumd is away. */
export async function fetchPages(): Promise<void> {
  for (const { component } of routes)
    try {
      if (typeof component === "function") await (component as () => Promise<unknown>)();
    } catch {
      return; // they are fetched when they are visited
    }
}

export const router = createRouter({
  history: createWebHistory(),
  routes,
  scrollBehavior: (_to, _from, saved) => saved ?? { top: 0 },
});

// A page that could not be fetched: plumd is away, or was upgraded and its files have new names.
// Either way the address is opened afresh, as soon as plumd is there.
router.onError((_error, to) => {
  const open = () => location.assign(to.fullPath);
  if (linkState.value === "live") return open();
  const stop = watch(linkState, (now) => {
    if (now !== "live") return;
    stop();
    open();
  });
});
