"""Data between steps: what is kept of a result, and how deep it may be."""

from __future__ import annotations

import msgspec
import pytest

from plumd.bodies import WorkflowBody
from plumd.expressions import Failure, Value
from plumd.flow.compile import compile_graph
from plumd.flow.data import NESTING_MAX, bearable, decoded, extract
from plumd.flow.machine import Machine
from plumd.flow.rules import StepState
from plumd.listeners import json_of
from plumd.mqtt import value_of
from tests.flow.drawing import Plain


def nested(levels: int) -> bytes:
    return b"[" * levels + b"]" * levels


@pytest.mark.parametrize("shape", ["list", "object"])
def test_what_others_can_bear_is_taken(shape: str) -> None:
    value: Value = 1
    for _ in range(NESTING_MAX):
        value = [value] if shape == "list" else {"a": value}
    assert bearable(value) is value
    with pytest.raises(Failure, match="deeper"):
        bearable([value])


@pytest.mark.parametrize("data", [nested(65), nested(900), nested(100_000), b"{", b'"\xff"'])
def test_what_they_cannot_is_no_value(data: bytes) -> None:
    with pytest.raises(Failure):
        decoded(data)
    assert extract(data, [("result",), ("result", 0)]) == {}
    assert extract(msgspec.json.encode({"stdout": data.decode(errors="replace")}),
                   [("result", "a")]) == {}
    assert json_of(data) == data.decode(errors="replace")
    assert isinstance(value_of(data), str)


@pytest.mark.parametrize("asked", ["last", "results"])
def test_a_result_that_grows_round_by_round_ends_the_loop(asked: str) -> None:
    body = msgspec.json.decode(msgspec.json.encode({"name": "w", "steps": [
        {"id": "grow", "type": "loop", "count": 2_000, "result": {"x": "${loop.last}"},
         "body": [{"id": "p", "type": "parallel"}]}],
        "result": f"${{steps.grow.result.{asked}}}"}), type=WorkflowBody)
    machine = Machine(compile_graph(body, Plain()), None, {})
    machine.begin(1)
    while machine.busy:
        machine.settle()
    assert (machine.over, machine.final) == (True, StepState.FAILED)
