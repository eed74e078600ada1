/** What a worker takes: tasks by their names, or the processes of a node, whose agent it is. */
import type { Worker } from "@/api/client";

type Offer = Pick<Worker, "tasks">;

/** What an agent registers in the place of names. */
const PROCESSES = "!os_process";

/** Whether it is the agent of a node. */
export function isAgent(worker: Offer): boolean {
  return worker.tasks.includes(PROCESSES);
}

/** The names of tasks that it takes. */
export function namesOf(worker: Offer): string[] {
  return worker.tasks.filter((name) => name !== PROCESSES);
}
