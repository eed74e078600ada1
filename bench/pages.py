"""The web UI before a million tasks and ten thousand runs: how long until a list shows its first
rows, does it scroll smoothly, and does the page stay responsive while 1,000 states change a second?
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Final

from playwright.sync_api import Page, sync_playwright

from bench import harness, lists
from bench.browsers import busy
from bench.harness import Daemon, Figures

CHROMIUM: Final = Path("/usr/bin/chromium-headless-shell")
ARGS: Final = ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-proxy-server",
               "--enable-precise-memory-info"]
LISTS: Final = ("tasks", "runs", "events", "taskDefs")
ADDRESSES: Final = {"tasks": "/tasks", "runs": "/runs", "events": "/events",
                    "taskDefs": "/task-defs"}
VISIT: Final = """
address => new Promise(done => {
  const begun = performance.now();
  document.querySelector(`nav.side a[href="${address}"]`).click();
  const look = () => {
    const there = location.pathname === address
      && (document.querySelector('main [data-row]') || document.querySelector('main .empty'));
    if (there) requestAnimationFrame(() => done(performance.now() - begun));
    else requestAnimationFrame(look);
  };
  look();
})
"""
"""Ms from the click on the menu to the frame that has rows in it."""
SCROLL: Final = """
seconds => new Promise(done => {
  const box = document.querySelector('main .box');
  const frames = [];
  let last = performance.now();
  const until = last + seconds * 1000;
  const step = now => {
    frames.push(now - last);
    last = now;
    box.scrollTop += 40;
    if (now < until) requestAnimationFrame(step);
    else done(frames.slice(2));
  };
  requestAnimationFrame(step);
})
"""
"""Ms between frames while the list moves 40 px each frame, pages being fetched on the way."""
LONG: Final = """
seconds => new Promise(done => {
  const found = [0];
  const observer = new PerformanceObserver(list =>
    list.getEntries().forEach(entry => found.push(entry.duration)));
  observer.observe({entryTypes: ['longtask']});
  setTimeout(() => { observer.disconnect(); done(found); }, seconds * 1000);
})
"""
"""Ms of each task of the page's thread over 50 ms."""


def visits(page: Page, count: int) -> dict[str, float]:
    """The median time of each list's first rows."""
    times: dict[str, list[float]] = {name: [] for name in LISTS}
    for _ in range(count):
        for name in LISTS:
            times[name].append(page.evaluate(VISIT, ADDRESSES[name]))
    return {f"{name}_first_rows_p50_ms": harness.median(found) for name, found in times.items()}


def run(seconds: float, count: int = lists.TASKS, runs: int = lists.RUNS) -> Figures:
    """One browser at one daemon."""
    with tempfile.TemporaryDirectory(prefix="plum-bench-") as folder, \
            sync_playwright() as playwright:
        data = Path(folder) / "data"
        data.mkdir()
        lists.fill(data / "plum.db", count, runs)
        daemon = Daemon(data, harness.free_port())
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGS)
        try:
            page = browser.new_page(viewport={"width": 1360, "height": 860})
            page.goto(f"{daemon.url}/")
            page.wait_for_selector(".chip[data-link=live]")
            visits(page, 1)         # the pages themselves are fetched once
            values = {"tasks": float(count), **visits(page, max(3, int(seconds / 4)))}
            page.evaluate(VISIT, "/tasks")
            frames: list[float] = page.evaluate(SCROLL, seconds / 4)
            values["scroll_frames_per_s"] = 1000 / (sum(frames) / len(frames))
            values["scroll_frame_p99_ms"] = harness.percentile(frames, 0.99)
            page.reload()
            page.wait_for_selector("main [data-row]")
            with harness.worker(daemon.url, 64, "load"), busy(daemon.port):
                page.wait_for_selector("main [data-row]:has-text('load')")
                tasks: list[float] = page.evaluate(LONG, seconds / 2)
            values["busy_longest_task_ms"] = max(tasks)
            values["busy_tasks_over_50_ms"] = float(len(tasks) - 1)
        finally:
            browser.close()
            daemon.stop()
        return Figures("pages", values, harness.digest_of([count, runs]))
