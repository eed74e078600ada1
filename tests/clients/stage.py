"""Where a scenario plays: a daemon, a kind of worker, and the words to ask about both."""

from __future__ import annotations

from collections import Counter
from contextlib import AbstractContextManager
from pathlib import Path

from plumd.sdk.client import Client, Json, JsonObject
from tests.clients.kinds import CALM_BEAT_MS, Kind, Links, Place, started, state_of
from tests.daemon.running import Running
from tests.sdk_c.building import Workshop
from tests.sdk_c.programs import Program, until

WAIT_S = 60


class Stage:
    """One kind of worker, and tasks of a name that nobody else has."""

    def __init__(self, kind: Kind, workshop: Workshop, daemon: Running, api: Client,
                 folder: Path, name: str) -> None:
        self.kind = kind
        self.daemon = daemon
        self.api = api
        self.folder = folder
        self.name = name
        self._workshop = workshop

    # ------------------------------------------------------------ workers

    def worker(self, number: int = 1, link: Links | None = None,
               label: str = "", beat_ms: int = CALM_BEAT_MS) -> AbstractContextManager[Program]:
        """A worker process that takes the tasks of this stage. label: for another process that
        has the same id.  beat_ms: short only where a lease must run out.
        """
        url = self.daemon.url if link is None else link.up.url
        place = Place(url, self.worker_id(number), self.name, self.folder, link,
                      beat_ms)
        return started(self.kind, self._workshop, self.api, place, label=label)

    def worker_id(self, number: int = 1) -> str:
        """The id of the worker with this number."""
        return f"{self.name}-{number}"

    def state(self, number: int = 1) -> JsonObject:
        """The worker as the API shows it; {} when it is not there."""
        return state_of(self.api, self.kind, self.worker_id(number))

    def idle(self, number: int = 1) -> bool:
        """Whether all its slots are free."""
        return self.state(number).get("running") == 0

    def forget(self, number: int = 1) -> None:
        """An operator deletes the worker."""
        self.api.request("DELETE", f"{self.kind.path}/{self.worker_id(number)}")

    def act(self, action: str, number: int = 1) -> None:
        """An operator drains or resumes the worker."""
        self.api.act(f"{self.kind.path}/{self.worker_id(number)}", action)

    # ------------------------------------------------------------ tasks

    def submit(self, order: JsonObject, **fields: Json) -> str:
        """A new task; its id."""
        return str(self.api.submit(self.name, order, key=None, **fields)["taskId"])

    def done(self, order: JsonObject, **fields: Json) -> JsonObject:
        """A new task once it is over."""
        return self.ended(self.submit(order, **fields))

    def bulk(self, orders: list[JsonObject]) -> list[str]:
        """Many new tasks; their ids."""
        tasks: list[Json] = [{"name": self.name, "payload": order} for order in orders]
        answer = self.api.request("POST", "/v1/tasks/bulk", {"tasks": tasks}).json()
        return [str(one["taskId"]) for one in answer["results"]]

    def ended(self, task_id: str) -> JsonObject:
        """A task once it is over."""
        return self.api.wait_task(task_id, WAIT_S)

    def results(self, task_ids: list[str]) -> list[Json]:
        """The results of many tasks that must succeed, once all of this stage's are over."""
        until(lambda: not any(any(self.api.tasks(name=self.name, state=state, limit=1))
                              for state in ("Pending", "Running")))
        found = {str(one["taskId"]): one["result"]
                 for one in self.api.tasks(name=self.name, state="Succeeded")}
        return [found[each] for each in task_ids]

    def task(self, task_id: str) -> JsonObject:
        """A task as it is."""
        return self.api.task(task_id)

    def starts(self) -> Counter[str]:
        """How often each attempt was started, by whichever worker of this stage."""
        return Counter(line for line in self._notes() if not line.startswith("-"))

    def _notes(self) -> list[str]:
        path = self.folder / "notes"
        return path.read_text().split() if path.exists() else []

    def until_held(self, *attempt_ids: str) -> None:
        """Until the handlers of all these attempts have seen their gate open."""
        until(lambda: {f"-{each}" for each in attempt_ids} <= set(self._notes()))

    def until_said_more(self, *task_ids: str) -> None:
        """Until there is more in the logs of these tasks than now."""
        def sizes() -> list[int]:
            return [sum(map(len, self.api.logs(each))) for each in task_ids]
        before = sizes()
        until(lambda: all(now > old for now, old in zip(sizes(), before, strict=True)))

    def until_started(self, *attempt_ids: str) -> None:
        """Until the handlers of all these attempts run."""
        until(lambda: set(attempt_ids) <= set(self.starts()))

    def until_again(self, *task_ids: str) -> list[str]:
        """Until each of these tasks was started twice; the ids of the second attempts that began.
        A call that never came to its worker is an attempt as well, but one that nobody started.
        """
        def later() -> list[str]:
            return [each for each in self.starts()
                    if "." in each and each.partition(".")[0] in task_ids]
        until(lambda: len(later()) == len(task_ids))
        return later()

    def once(self, *attempt_ids: str) -> None:
        """Each of these was started once, and no other attempt of their tasks was."""
        starts = self.starts()
        tasks = {each.partition(".")[0] for each in attempt_ids}
        of_tasks = {each: count for each, count in starts.items()
                    if each.partition(".")[0] in tasks}
        wrong = {each: of_tasks.get(each, 0) for each in {*of_tasks, *attempt_ids}
                 if each not in attempt_ids or of_tasks.get(each) != 1}
        assert not wrong, wrong

    def each_once(self, task_ids: list[str]) -> None:
        """Each of these tasks was started once. Its attempt need not be the first: what a worker
        has asked for ahead and cannot begin soon, it gives back to be given anew.
        """
        starts = Counter(each.partition(".")[0] for each in self.starts().elements())
        wrong = {each: starts[each] for each in task_ids if starts[each] != 1}
        assert not wrong, wrong
