/** Hearing of what schedules started: that it goes on, and how it ends. */
import { useNews } from "./useResource";
import type { Schedule } from "@/domain/schedule";

export function useStarted(schedules: () => readonly Schedule[], changed: () => void): void {
  function heard(id: string): void {
    if (schedules().some((one) => one.running.includes(id))) changed();
  }

  useNews("run", (news) => heard(news.runId));
  useNews("task", (news) => heard(news.taskId));
  useNews("more", (news) => {
    if (news.topic === "runs" || news.topic === "tasks") changed();
  });
}
