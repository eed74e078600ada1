"""Where a copy goes: rules one by one, and what must hold for any fleet."""

from __future__ import annotations

import random
from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from plumd.placement import NODE_DRAINED, NODE_LOST, Board, Need, Node, Reason

GROUP = (1, "e")


def test_rules() -> None:
    nodes = [Node("a", {"rack": "1"}), Node("b", {"rack": "2"}, instances_max=1),
             Node("c", {"rack": "2"}, NODE_LOST), Node("d", {"rack": "3"}, NODE_DRAINED),
             Node("e", {"rack": "3"}, shaky=True), Node("f", {"rack": "4"}, memory_bytes=100,
                                                       cpu_percent=200)]
    board = Board(nodes)
    assert board.choose(Need(GROUP)).node_id == "a"
    assert board.choose(Need(GROUP), avoid="a").node_id == "b"
    assert board.choose(Need(GROUP, {"rack": "3"})).node_id == "e", "it is the last choice, but one"
    board.put("a", Need(GROUP, ports=(80,)))
    board.put("b", Need(GROUP))
    assert board.choose(Need(GROUP)).node_id == "f"
    assert board.why_not(nodes[0], Need(GROUP, ports=(80,))) == Reason("port_taken", {"port": 80})
    assert not board.why_not(nodes[0], Need(GROUP, ports=(80,)), ports=False)
    assert board.why_not(nodes[1], Need(GROUP)) == Reason("node_full", {"count": 1})
    assert board.why_not(nodes[0], Need(GROUP, max_per_node=1)) == Reason(
        "entry_full", {"count": 1})
    assert board.why_not(nodes[5], Need(GROUP, memory_bytes=101)) == Reason("memory_short")
    assert board.why_not(nodes[5], Need(GROUP, cpu_percent=201)) == Reason("cpu_short")
    choice = board.choose(Need(GROUP, {"rack": "9"}))
    assert choice.node_id == ""
    assert choice.why == Reason("no_node_fits", because=(
        Reason("label_missing", {"label": "rack", "value": "9"}, nodes=4),
        Reason("node_drained", nodes=1), Reason("node_lost", nodes=1)))
    assert choice.why.text == ("no node fits: the label rack=9 is missing (4 nodes); it is drained "
                               "(1 node); it is lost (1 node)")
    none = Board([]).choose(Need(GROUP)).why
    assert none is not None
    assert none.text == "there are no nodes"


def test_spread_over_a_label() -> None:
    board = Board([Node(f"n{index}", {"zone": "x" if index < 4 else "y"}) for index in range(6)])
    need = Need(GROUP, spread="zone")
    zones: Counter[str] = Counter()
    for _ in range(8):
        node_id = board.choose(need).node_id
        board.put(node_id, need)
        zones[board.nodes[node_id].labels["zone"]] += 1
    assert zones == {"x": 4, "y": 4}


NODES = st.lists(st.builds(
    Node, st.sampled_from([f"n{index}" for index in range(8)]),
    st.dictionaries(st.sampled_from("ab"), st.sampled_from("12")),
    st.sampled_from(["", "", NODE_LOST, NODE_DRAINED]), st.booleans(), st.integers(0, 3),
    st.integers(0, 5), st.just(0.0)), unique_by=lambda node: node.node_id, max_size=8)
NEEDS = st.lists(st.builds(
    Need, st.tuples(st.integers(1, 2), st.sampled_from("ef")),
    st.dictionaries(st.sampled_from("ab"), st.sampled_from("12"), max_size=1),
    st.sampled_from(["", "a"]), st.integers(0, 2), st.integers(0, 3), st.just(0.0),
    st.sampled_from([(), (80,), (80, 81)])), max_size=20)


@given(NODES, NEEDS, st.integers())
def test_any_fleet(nodes: list[Node], needs: list[Need], seed: int) -> None:
    """No bound is ever broken, what is refused fits nowhere, and order of nodes says nothing."""
    board = Board(nodes)
    mixed = list(nodes)
    random.Random(seed).shuffle(mixed)
    other = Board(mixed)
    for need in needs:
        choice = board.choose(need)
        assert other.choose(need) == choice
        if not choice.node_id:
            assert choice.why
            assert all(board.why_not(node, need) for node in nodes)
            continue
        node = board.nodes[choice.node_id]
        assert not board.why_not(node, need)
        board.put(choice.node_id, need)
        other.put(choice.node_id, need)
        load = board.loads[choice.node_id]
        assert not node.why_not
        assert need.selector.items() <= node.labels.items()
        assert not node.instances_max or load.copies <= node.instances_max
        assert not node.memory_bytes or load.memory_bytes <= node.memory_bytes
        assert max(load.ports.values(), default=0) <= 1
        assert not need.max_per_node or load.groups[need.group] <= need.max_per_node
