"""The commands of `kubectl architect`: those of `architect`, for pods anywhere in the cluster."""

from __future__ import annotations

import asyncio
import functools
import sys
from collections.abc import Awaitable, Callable
from typing import Any, Final

import click

from architect.cli.commands import (
    FAILED,
    HIBERNATE_SECONDS,
    LOOK_SECONDS,
    VERSION,
    WAKE_SECONDS,
    as_json,
    end,
    print_json,
    print_outcome,
)
from architect.cli.terminal import printable, spinner

_WAY_SECONDS: Final = 30.0  # to the node and back, and for its interpreter to start
_DOCTOR_SECONDS: Final = 120.0
pod = click.argument("pod", metavar="POD[/CONTAINER]")


def reach(command: Callable[..., None]) -> Callable[..., None]:
    """The options that kubectl users type after any command: which cluster, which namespace."""

    @click.option("-n", "--namespace", default="", help="Of the pods; by default the context's.")
    @click.option("--context", default="", help="Of the kubeconfig; by default its current one.")
    @click.option("--kubeconfig", default="", help="A file; by default $KUBECONFIG, or ~/.kube/config.")
    @functools.wraps(command)
    def wrapped(**given: Any) -> None:
        command(**given)

    return wrapped


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(VERSION, prog_name="kubectl architect")
def kubectl_cli() -> None:
    """See, explain, put to sleep and wake the containers of a cluster's pods."""


@kubectl_cli.command()
@reach
@click.option("-A", "--all-namespaces", is_flag=True, help="Pods of every namespace.")
@as_json
def status(all_namespaces: bool, as_json: bool, **where: str) -> None:
    """Show the managed containers of pods and what they do."""

    async def look(client: Any, namespace: str) -> list[dict[str, Any]]:
        from architect.cli.cluster import listed

        return await listed(client, "" if all_namespaces else namespace)

    found = _with_cluster(look, where)
    if as_json:
        print_json({"containers": found})
        return
    from architect.cli.tables import show_pods

    show_pods(found)


@kubectl_cli.command()
@reach
@click.option("-A", "--all-namespaces", is_flag=True, help="Pods of every namespace.")
@as_json
def migrations(all_namespaces: bool, as_json: bool, **where: str) -> None:
    """Show what moves between nodes, and what has moved since yesterday."""

    async def look(client: Any, namespace: str) -> list[dict[str, Any]]:
        from architect.cli.migrations import recorded

        return await recorded(client, "" if all_namespaces else namespace)

    found = _with_cluster(look, where)
    if as_json:
        print_json({"migrations": found})
        return
    from architect.cli.tables import show_migrations

    show_migrations(found)


@kubectl_cli.command()
@click.argument("pod")
@reach
@click.option("--wait", is_flag=True, help="Until it is known what has become of it.")
@as_json
def migrate(pod: str, wait: bool, as_json: bool, **where: str) -> None:
    """Evict POD on purpose: the pod that replaces it goes on with its memory.

    It is refused when that would not move, or when a disruption budget forbids it. Which node it comes to the
    scheduler decides; cordon those that it shall not.
    """

    async def look(client: Any, namespace: str) -> list[dict[str, Any]]:
        from architect.cli import moving

        found = await moving.to_migrate(client, namespace, pod)
        await moving.evict(client, found)
        return await moving.waited(moving.outcome(client, found)) if wait else []

    with spinner(f"waiting for {pod} to move" if wait else f"evicting {pod}"):
        entries = _with_cluster(look, where)
    if not wait:
        _told(f"{pod} is evicted; kubectl architect migrations tells what becomes of it.", as_json)
    elif not entries:
        end(f"{pod} has ended, and its memory with it; the control plane's log says why", FAILED)
    else:
        _show_end(entries, as_json)


@kubectl_cli.command()
@click.argument("name", metavar="MIGRATION|POD")
@reach
@click.option("--wait", is_flag=True, help="Until it is known what has become of it.")
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
@as_json
def restore(name: str, wait: bool, yes: bool, as_json: bool, **where: str) -> None:
    """Give a copy that is kept to the next pod that replaces the one which left.

    A MIGRATION failed, and its POD began without its memory, of which there is a copy for a day. That pod is
    evicted now, and what it has in memory is lost; the one that replaces it goes on with the copy.
    """

    async def find(client: Any, namespace: str) -> list[Any]:
        from architect.cli import moving

        return [await moving.kept(client, namespace, name)]

    async def look(client: Any, _: str) -> list[dict[str, Any]]:
        from architect.cli import moving

        await moving.restore(client, copy)
        return await moving.waited(moving.restored(client, copy)) if wait else []

    [copy] = _with_cluster(find, where)
    if not yes:
        _ask_whether(copy)
    with spinner(f"giving back {name}"):
        entries = _with_cluster(look, where)
    if wait:
        _show_end(entries, as_json)
    else:
        _told(
            "The copy goes to the next pod; kubectl architect migrations tells whether it arrives.", as_json
        )


def _ask_whether(copy: Any) -> None:
    """Tells what is about to happen, and ends the program unless that is wanted."""
    from architect.cli.tables import ago, size

    for entry in copy.entries:
        about = (
            f"{size(entry['bytes'])}, kept on {entry['from']}, which it left {ago(int(entry['left'] * 1e9))}"
        )
        click.echo(printable(f"Container {entry['container']} of pod {entry['pod']}: {about}"))
    if copy.pod is not None:
        name, node = copy.pod["metadata"]["name"], (copy.pod.get("spec") or {}).get("nodeName") or "no node"
        click.echo(printable(f"Pod {name} on {node} is evicted, and what it has in memory now is lost."))
    click.confirm("Go on?", abort=True)


def _told(sentence: str, as_json: bool) -> None:
    if as_json:
        print_json({"migrations": []})
    else:
        click.echo(printable(sentence))


def _show_end(entries: list[dict[str, Any]], as_json: bool) -> None:
    """What has become of it; anything but an arrival is a failure."""
    if as_json:
        print_json({"migrations": entries})
    else:
        from architect.cli.tables import show_migrations

        show_migrations(entries)
    if any(entry["state"] != "Arrived" for entry in entries):
        sys.exit(FAILED)


@kubectl_cli.command()
@pod
@reach
@as_json
def explain(pod: str, as_json: bool, **where: str) -> None:
    """Say whether the containers of POD can hibernate, why not, and what they wait for."""
    answers = _with_cluster(_asking(pod, "explain", LOOK_SECONDS), where)
    if as_json:
        print_json({"containers": answers})
        return
    from architect.cli.tables import show_explanation

    for answer in answers:
        show_explanation(answer)


@kubectl_cli.command()
@pod
@reach
@as_json
def hibernate(pod: str, as_json: bool, **where: str) -> None:
    """Put the containers of POD to sleep now, idle or not."""
    with spinner(f"putting {pod} to sleep"):
        answers = _with_cluster(_asking(pod, "hibernate", HIBERNATE_SECONDS), where)
    _print_outcomes(answers, as_json)


@kubectl_cli.command()
@pod
@reach
@as_json
def wake(pod: str, as_json: bool, **where: str) -> None:
    """Wake the containers of POD; one that is awake stays so."""
    with spinner(f"waking {pod}"):
        answers = _with_cluster(_asking(pod, "wake", WAKE_SECONDS), where)
    _print_outcomes(answers, as_json)


@kubectl_cli.command()
@click.argument("node", default="")
@reach
@as_json
def doctor(node: str, as_json: bool, **where: str) -> None:
    """Check whether the cluster and its nodes, or NODE, can run Architect."""

    async def look(client: Any, _: str) -> list[dict[str, Any]]:
        from architect.cli.cluster import examined_all

        return await examined_all(client, node, _DOCTOR_SECONDS)

    with spinner("examining the cluster"):
        found = _with_cluster(look, where)
    sound = all(finding["passed"] for finding in found)
    if as_json:
        print_json({"passed": sound, "checks": found})
    else:
        from architect.cli.doctor import Finding
        from architect.cli.tables import show_findings

        show_findings([Finding(**finding) for finding in found])
    if not sound:
        sys.exit(FAILED)


def _print_outcomes(answers: list[dict[str, Any]], as_json: bool) -> None:
    if as_json:
        print_json({"containers": answers})
        return
    for answer in answers:
        print_outcome(answer, as_json)


Look = Callable[[Any, str], Awaitable[list[Any]]]


def _asking(reference: str, command: str, seconds: float) -> Look:
    """Asks the daemon of a pod's node about the containers that `reference` means, one after the other."""

    async def look(client: Any, namespace: str) -> list[dict[str, Any]]:
        from architect.cli.cluster import ask, find

        named = await find(client, namespace, reference)
        paths = [f"{named.namespace}/{named.name}/{container}" for container in named.containers]
        return [
            await ask(client, named.node, [command, "--json", path], seconds=seconds + _WAY_SECONDS)
            for path in paths
        ]

    return look


def _with_cluster(look: Look, where: dict[str, str]) -> list[Any]:
    """What `look` finds; ends the program with a sentence when the cluster cannot be asked."""
    # All of this is only needed to ask, not for help and completion.
    from architect.cli.cluster import Failed
    from architect.kube import ApiError, Client, NoAccess
    from architect.kube.kubeconfig import from_kubeconfig

    async def run() -> list[Any]:
        access = from_kubeconfig(where["kubeconfig"], where["context"])
        async with Client(access) as client:
            return await look(client, where["namespace"] or access.namespace)

    try:
        return asyncio.run(run())
    except (NoAccess, ApiError, Failed) as error:
        end(str(error), FAILED)
