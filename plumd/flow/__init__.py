"""Pure: what a run of a workflow does next.

graph.py    what a workflow means, compiled once a version: scopes of steps and their edges
compile.py  from the written form to the graph; refuses what could not work, with the place
rules.py    the truth table of trigger rules
data.py     references in payloads: what is kept of a result, and what a payload becomes
params.py   the JSON Schema of a run's parameters
machine.py  one run: (what happened) -> what follows
restore.py  a run from its rows, as it was
tasks.py    a definition's task; payloads over payloads
"""

from plumd.flow.graph import BeginRun, CancelRun, Graph, RunAct, RunPlan, Seed
from plumd.flow.tasks import (
    DECODE_FIELDS,
    ENCODE,
    default_timeout_ms,
    is_object,
    merge,
    ordered,
    raw,
    step_of,
    task_of,
    to_ms,
)

__all__ = ["DECODE_FIELDS", "ENCODE", "BeginRun", "CancelRun", "Graph", "RunAct", "RunPlan", "Seed",
           "default_timeout_ms", "is_object", "merge", "ordered", "raw", "step_of", "task_of",
           "to_ms"]
