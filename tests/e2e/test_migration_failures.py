"""A pod moves, and something fails on the way: killed with -9, or cut off, at each phase of the move.

The judge is the same for all (`moves.py`): never two live copies of one state; nothing stuck; who starts
fresh says so. What needs no cluster to be shown is not repeated here:

    a byte changes on the way, a connection breaks      tests/daemon/transfer/test_transfer.py
    a wrong certificate, a stolen ticket                tests/daemon/transfer/test_trust.py
    a source that lies                                  tests/daemon/transfer/test_hostile_*.py
    a forged identity, a node that speaks for another   tests/kube/test_migration_identities.py
    Claim and Take repeated, by the same and another    tests/kube/test_migrations.py
    each deadline                                       tests/kube/test_migration_deadlines.py
    two that believe to lead                            tests/kube/test_migration_failover.py
    a foreign kernel or processor, a full disk          tests/kube/test_moving.py
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from hack import services
from hack.api import Api
from hack.control import await_true
from hack.nodes import Node
from tests.e2e import moves
from tests.e2e.conftest import Kubectl
from tests.e2e.moves import Move, moving

pytestmark = [pytest.mark.usefixtures("migration"), pytest.mark.timeout(600)]


@pytest.fixture
def move(api: Api, kubectl: Kubectl, namespace: str, nodes: list[Node]) -> Iterator[Move]:
    """A pod that is to move."""
    moves.renew(api, nodes)
    with moving(api, kubectl, namespace, nodes) as found:
        yield found


def held(move: Move, phase: str, stack: ExitStack) -> None:
    """Evict it, and have the move stand still in that phase until the stack ends."""
    if phase == "Expected":
        stack.enter_context(moves.stopped(moves.daemon(move.here)))
        move.evict()
    elif phase == "Leaving":
        move.evict()
        move.await_phase("Leaving")
        stack.enter_context(moves.stopped(moves.daemon(move.here)))
    else:
        with ExitStack() as network:
            network.enter_context(moves.cut(move.here))
            move.evict()
            move.await_phase("Offered")
            waiting = move.await_waiting()
            if phase == "Offered":
                stack.push(network.pop_all())
                return
            stack.enter_context(moves.stopped(moves.shim(waiting)))
        if phase == "Given":
            move.await_given(waiting)
            return
    move.await_phase(phase)


def victim(move: Move, what: str) -> int:
    """The process that is killed."""
    match what:
        case "source daemon":
            return moves.daemon(move.here)
        case "target daemon":
            return moves.daemon(move.there)
        case "leader":
            return moves.leader(move.api)
        case "source shim":
            return moves.shim(move.seen)
        case _:
            return moves.shim(move.await_waiting())


KILLED = [
    ("source daemon", "Expected", True),
    ("source daemon", "Leaving", True),
    ("source daemon", "Offered", True),
    ("source daemon", "Taken", True),
    ("target daemon", "Leaving", True),
    ("target daemon", "Offered", True),
    ("target daemon", "Taken", True),
    ("leader", "Expected", True),
    ("leader", "Leaving", True),
    ("leader", "Offered", True),
    ("leader", "Taken", True),
    ("source shim", "Leaving", False),
    ("target shim", "Leaving", True),
    ("target shim", "Offered", True),
    ("target shim", "Given", False),  # to a container that has ended: it may have run
]


@pytest.mark.parametrize(("what", "phase", "moved"), KILLED, ids=lambda value: str(value).replace(" ", "-"))
def test_killed(move: Move, what: str, phase: str, moved: bool) -> None:
    with ExitStack() as stack:
        held(move, phase, stack)
        moves.kill(victim(move, what))
    move.check(moved=moved)


def test_the_target_s_shim_is_killed_while_it_restores(move: Move) -> None:
    with moves.cut(move.here):
        move.evict()
        waiting = move.await_waiting()
        shim = moves.shim(waiting)
    move.await_given(waiting)
    moves.kill(shim)
    move.check(moved=None)


def test_a_replacement_is_deleted_while_it_waits_and_the_next_one_gets_it(move: Move) -> None:
    with moves.cut(move.here):
        move.evict()
        move.await_phase("Offered")
        waiting = move.await_waiting()["metadata"]["name"]
        move.kubectl("delete", "pod", waiting)
    assert move.check(moved=True).name != waiting


@pytest.mark.parametrize("phase", ["Offered", "Taken"])
def test_the_api_server_is_killed(move: Move, phase: str) -> None:
    try:
        with ExitStack() as stack:
            held(move, phase, stack)
            services.kill("kube-apiserver")
    finally:
        services.start("kube-apiserver")
        move.api.await_ready()
    move.check(moved=True)


def test_the_source_node_loses_power_before_anything_was_fetched(move: Move, nodes: list[Node]) -> None:
    moves.wall(move.here)
    move.evict()
    move.await_phase("Offered")
    move.await_claimed()
    move.here.power_off()
    move.here.power_on(nodes)
    move.check(moved=True)


def test_the_target_node_loses_power_while_a_replacement_waits_there(move: Move, nodes: list[Node]) -> None:
    with moves.cut(move.here):
        move.evict()
        move.await_phase("Offered")
        move.await_waiting()
        move.there.power_off()
        move.there.power_on(nodes)
    move.check(moved=True)


def test_the_target_node_is_gone_and_the_next_replacement_gets_it(move: Move, nodes: list[Node]) -> None:
    with moves.cut(move.here):
        move.evict()
        move.await_phase("Offered")
        waiting = move.await_claimed()
        move.there.power_off()
    # Whoever asks while nobody leads waits, but not for as long as a node may take to be missed.
    await_true(lambda: bool(moves.leaders(move.api)), "a replica leads that is still there")
    moves.cordon(move.api, move.there, unschedulable=True)
    moves.cordon(move.api, move.here, unschedulable=False)
    name = waiting["metadata"]["name"]
    move.kubectl("delete", "pod", name, "--force", "--grace-period=0")
    try:
        after = move.arrived()
        assert after.name != name
        assert after.read()["spec"]["nodeName"] == move.here.name
    finally:
        move.there.power_on(nodes)
    move.check(moved=True)


def test_what_was_damaged_on_the_source_s_disk_is_kept_and_restored_when_it_is_mended(move: Move) -> None:
    with ExitStack() as network:
        network.enter_context(moves.cut(move.here))
        move.evict()
        move.await_phase("Offered")
        with moves.damaged(move.here, move.namespace):
            network.close()
            fresh = move.check(moved=False)
    assert "its copy is kept" in str(moves.warnings(fresh))
    restored = move.restore(fresh)
    assert moves.first_answer(restored) == move.token
