/** When the tasks of a run's steps came up, and when each of their attempts began and ended. */
import { watch } from "vue";
import type { Ref } from "vue";

import { api, take, takePage } from "@/api/client";
import type { StepRun, Task } from "@/api/client";
import { useResource } from "./useResource";
import type { TaskTimes } from "@/domain/timeline";

const PAGES_MAX = 6;
/** Of so many tasks that were tried again each attempt is asked for. */
const RETRIED_MAX = 120;
const AT_ONCE = 6;
const DISTANCE_MS = 2_000;

export function useTaskTimes(runId: string, steps: Ref<readonly StepRun[]>) {
  const kept = new Map<string, TaskTimes>();

  async function attempts(task: Task, signal: AbortSignal): Promise<void> {
    const params = { path: { id: task.taskId } };
    const found = await take(api.GET("/v1/tasks/{id}/attempts", { params, signal }));
    kept.set(task.taskId, {
      createdAt: task.createdAt,
      attempts: [...found].sort((a, b) => a.attempt - b.attempt),
    });
  }

  const times = useResource(
    async (signal) => {
      const tasks: Task[] = [];
      let cursor = "";
      for (let page = 0; page < PAGES_MAX; page += 1) {
        const query = { runId, limit: 1000, ...(cursor === "" ? {} : { cursor }) };
        const found = await takePage(api.GET("/v1/tasks", { params: { query }, signal }));
        tasks.push(...found.items);
        cursor = found.next;
        if (cursor === "") break;
      }
      const outer = new Set(steps.value.map((one) => one.taskId));
      const again: Task[] = [];
      for (const task of tasks) {
        if (!outer.has(task.taskId)) continue;
        const known = kept.get(task.taskId);
        if (task.attempt < 2) kept.set(task.taskId, { createdAt: task.createdAt, attempts: [] });
        else if (task.finishedAt === null || known?.attempts.length !== task.attempt) again.push(task);
      }
      const asked = again.slice(0, RETRIED_MAX);
      while (asked.length > 0)
        await Promise.all(asked.splice(0, AT_ONCE).map((task) => attempts(task, signal)));
      return new Map(kept);
    },
    [],
    DISTANCE_MS,
  );
  watch(steps, () => times.refreshSoon());
  return times;
}
