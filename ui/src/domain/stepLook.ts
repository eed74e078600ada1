/** Types of steps: one map from type to icon, and the ways that lead out of each. */
import {
  Boxes,
  CirclePlay,
  GitBranch,
  GitMerge,
  Hourglass,
  Repeat,
  UserCheck,
  Workflow as WorkflowIcon,
} from "@lucide/vue";
import type { Component } from "vue";

import type { StepType } from "./draft";

export const STEP_ICONS: Readonly<Record<StepType, Component>> = {
  task: CirclePlay,
  branch: GitBranch,
  parallel: GitMerge,
  loop: Repeat,
  map: Boxes,
  workflow: WorkflowIcon,
  wait: Hourglass,
  approval: UserCheck,
};

/** The ends that an edge may ask for; "" = any end, a failure skips what follows. */
export function endsOf(type: string): readonly string[] {
  const any = ["", "success", "failure", "done"];
  return type === "branch" ? ["true", "false", ...any] : any;
}
