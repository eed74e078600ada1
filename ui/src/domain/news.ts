/** What a thing looks like after the news of it. */
import type { Run, Task } from "@/api/client";
import type { RunNews, TaskNews } from "@/api/events";

import { isOver } from "./state";

export function taskAfter(task: Task, news: TaskNews): Task {
  return {
    ...task,
    state: news.state,
    attempt: news.attempt,
    worker: news.worker ?? task.worker,
    startedAt: news.state === "Running" ? news.at : task.startedAt,
    finishedAt: isOver(news.state) ? news.at : null,
  };
}

export function runAfter(run: Run, news: RunNews): Run {
  return { ...run, state: news.state, finishedAt: isOver(news.state) ? news.at : null };
}
