"""The kept list: where the fault goes, what it breaks, and which tests have to see it."""

from __future__ import annotations

from typing import Final, NamedTuple

CORE: Final = "plumd/_sched.pyx"
WORKERS: Final = "plumd/_workers.pxi"
MATCH: Final = "plumd/_match.pxi"
ENGINE: Final = "plumd/engine.py"
STORE: Final = "plumd/store/store.py"

MACHINE: Final = "machine"
KEPT: Final = "kept"
ORDER: Final = "order"
LOOP: Final = "loop"
SIM: Final = "sim"
DAEMON: Final = "daemon"

SUITES: Final = {
    MACHINE: ("-m", "pytest", "-x", "-q", "--hypothesis-seed=1", "tests/sched/test_machine.py"),
    KEPT: ("-m", "pytest", "-x", "-q", "tests/sched/test_kept.py"),
    ORDER: ("-m", "pytest", "-x", "-q", "tests/daemon/test_engine_order.py"),
    LOOP: ("-m", "pytest", "-x", "-q", "tests/test_engine.py"),
    SIM: ("-m", "tests.sim", "--seeds", "16", "--first", "1", "--jobs", "1"),
    DAEMON: ("-m", "pytest", "-x", "-q", "tests/daemon/test_restarts.py"),
}


class Fault(NamedTuple):
    """Replace `old`, which stands in `file` exactly once, by `new`."""

    breaks: str
    file: str
    old: str
    new: str
    suites: tuple[str, ...]


FAULTS: Final = (
    Fault("a late report of an older attempt ends the current one", CORE,
          '''        task = &self.tasks[slot]
        if task.state != RUNNING or task.attempt != command.attempt:
            return self.stale("this attempt is no longer the current one",
                              task.state, task.attempt)
        worker =''',
          '''        task = &self.tasks[slot]
        if task.state != RUNNING:
            return self.stale("this attempt is no longer the current one",
                              task.state, task.attempt)
        worker =''', (KEPT, MACHINE)),
    Fault("a worker ends the attempt of another", CORE,
          "if worker is None or worker.worker_id != command.worker_id:",
          "if worker is None:", (KEPT,)),
    Fault("a task that waits for its retry is forgotten", CORE,
          '''            self.set_state(slot, RETRYING, now_ms)
            return self.arm(slot, now_ns + delay_ms * MS)''',
          '''            self.set_state(slot, RETRYING, now_ms)
            return 0''', (KEPT, MACHINE)),
    Fault("an attempt that was given back counts as a loss", CORE,
          """        if ending == END_RETURNED:
            return PENDING
        if ending == END_UNREACHED:""",
          "        if ending == END_UNREACHED or ending == END_RETURNED:", (KEPT, MACHINE)),
    Fault("a new line has what the old one wanted ahead", WORKERS,
          "        worker.ahead = 0        # what a line wants it says anew",
          "        pass", (KEPT, MACHINE)),
    Fault("a slot stays taken when its attempt has ended", CORE,
          "        worker.running -= 1\n", "        pass\n", (KEPT, MACHINE)),
    Fault("a lease never expires", WORKERS,
          """    if worker.kind != LOCAL:
        self.leases.put(self.lease_at, worker.expires_ns, worker.slot, worker.slot)
    if back:""",
          """    if back:""", (KEPT, MACHINE)),
    Fault("a beat does not renew the lease", CORE,
          '''            return False
        worker.expires_ns = <int64_t> now.mono_ns + worker.lease_ns
''',
          '''            return False
''', (KEPT, MACHINE)),
    Fault("an attempt has no timeout", CORE,
          '''            task.timeout_ns = now_ns + task.timeout_ms * MS
            self.arm(slot, task.timeout_ns)
        else:''',
          '''            task.timeout_ns = now_ns + task.timeout_ms * MS
            self.timers.drop(self.timer_at, slot)
        else:''', (KEPT, MACHINE)),
    Fault("a timeout is not taken up after a restart", CORE,
          '''            task.timeout_ns = now_ns + left_ms * MS
            self.arm(slot, task.timeout_ns)''',
          '''            task.timeout_ns = now_ns + left_ms * MS''', (KEPT,)),
    Fault("a queue timeout is not kept", CORE,
          '''        if task.queue_timeout_ms:
            self.arm(''',
          '''        if task.queue_timeout_ms < 0:
            self.arm(''', (KEPT, MACHINE)),
    Fault("cancel leaves a task that waits for its retry", CORE,
          '''                return Reply("", "", RUNNING, self.tasks[slot].attempt)
        else:''',
          '''                return Reply("", "", RUNNING, self.tasks[slot].attempt)
        elif task.state != RETRYING:''', (KEPT, MACHINE)),
    Fault("a cancel is forgotten when the daemon restarts", CORE,
          '''        if task.cancel_ms:
            self.stop(slot, STOP_CANCEL, now_ns, now_ms)
        return 0''',
          '''        return 0''', (KEPT, SIM)),
    Fault("a new process of a worker has the claims of the old one", WORKERS,
          '        lose_all(self, worker, "worker_restarted", now_ns, now_ms)\n', "",
          (KEPT, MACHINE)),
    Fault("what a worker that left had held is held for ever", WORKERS,
          '    lose_all(self, worker, "worker_left", now_ns, now_ms)\n', "", (KEPT, MACHINE)),
    Fault("priorities do not count", CORE,
          "klass.ready.put(self.ready_at, order_ms - task.priority * self.age_ms, tie, slot)",
          "klass.ready.put(self.ready_at, order_ms, tie, slot)", (KEPT, MACHINE)),
    Fault("a low priority starves", CORE,
          "klass.ready.put(self.ready_at, order_ms - task.priority * self.age_ms, tie, slot)",
          "klass.ready.put(self.ready_at, -task.priority, tie, slot)", (KEPT, MACHINE)),
    Fault("a claim that never arrived is not sent again", WORKERS,
          '''            elif worker.kind == SESSION:
                self.tell_start(slot, worker, True)
            slot = following''',
          '''            slot = following''', (KEPT, SIM)),
    Fault("work that a worker has lost the right to goes on", WORKERS,
          '''        for pair in command.holding:
            if pair in held:
                self.stops.append((worker.worker_id, pair[0], pair[1], "stale"))
    else:
        for pair in command.holding:
            self.stops.append((worker.worker_id, pair[0], pair[1], "stale"))
''',
          "", (KEPT,)),
    Fault("a delayed task starts at once", CORE,
          "        if task.due_ms > now_ms:\n", "        if task.due_ms < 0:\n", (KEPT, MACHINE)),
    Fault("lost attempts are tried for ever", CORE,
          "if task.on_lost == 1 or task.failures + task.lost > task.max_retries + self.lost_extra:",
          "if task.on_lost == 1:", (KEPT, MACHINE)),
    Fault("onLost fail runs a second time", CORE,
          "if task.on_lost == 1 or task.failures", "if task.failures", (KEPT, MACHINE)),
    Fault("a worker that drains gets more", MATCH,
          "    return (worker.attached and not worker.draining\n", "    return (worker.attached\n",
          (KEPT, MACHINE)),
    Fault("a caller is told before the commit", ENGINE,
          "                first_seq = self.store.next_seq\n",
          "                first_seq = self.store.next_seq\n                self._answer(batch)\n",
          (ORDER, SIM)),
    Fault("effects leave before the commit", ENGINE,
          "                first_seq = self.store.next_seq\n",
          '''                first_seq = self.store.next_seq
                self.outbox.release(change[0].created, starts, stops, kicks)
                starts, stops, kicks = [], [], []
''', (ORDER,)),
    Fault("the core is not rebuilt after a commit that failed", ENGINE,
          '''            await trio.sleep(PROBE_S)
        self.load()
''', '''            await trio.sleep(PROBE_S)
''', (SIM,)),
    Fault("a commit that failed is answered as done", ENGINE,
          "            if not landed:\n", "            if landed is None:\n", (SIM,)),
    Fault("a run stands still after a restart", "plumd/runs.py",
          "        self._busy[plan.run_id] = None\n\n    def release_lost",
          "\n    def release_lost", (LOOP,)),
    Fault("the end of a task does not move its run on", ENGINE,
          "                flows.advance(end, now.wall_ms)\n",
          "                del end\n", (SIM,)),
    Fault("a slot is not given out where its end begins nothing in its run", ENGINE,
          """            if not commands and not ends:
                return
""", """            if not commands:
                if not ends:
                    return
                continue
""", (SIM,)),
    Fault("events are not written", STORE,
          "record = events.insert(db, self.next_seq, change.now_ms, change.events)",
          "record = Record(self.next_seq, len(change.events) or 1, change.events)",
          (SIM, DAEMON)),
    Fault("event numbers are given out twice", "plumd/store/events.py",
          "    count = len(items) or 1\n", "    count = 1\n", (DAEMON,)),
    Fault("a reader that comes back hears its last event again", "plumd/api/events.py",
          "high=(1 << 53)) + 1\n", "high=(1 << 53))\n",
          (DAEMON,)),
    Fault("an Idempotency-Key is not remembered", "plumd/api/context.py",
          "        if self.key and keys.get(tx.db, self.key) is None:\n",
          "        if not self.key:\n", (DAEMON,)),
    Fault("a key's memory is not of the same commit", "plumd/api/tasks.py",
          '''            (command,), remember(note, 201, text.encode(), f"/v1/tasks/{text}"))
''', '''            (command,))
''', (DAEMON,)),
    Fault("a poison row keeps all rows behind it from being read", "plumd/store/quarantine.py",
          '''            yield from one
        except (UnicodeDecodeError, apsw.CorruptError) as error:
            bad.append(Unreadable("task", str(task_id), str(error)))
''', '''            yield from one
        except (UnicodeDecodeError, apsw.CorruptError) as error:
            bad.append(Unreadable("task", str(task_id), str(error)))
            return
''', (DAEMON,)),
)
