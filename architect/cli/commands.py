"""The commands of `architect`: they ask, show, and end with 0, 1 (refused, or failed) or 2 (no daemon)."""

from __future__ import annotations

import json
import sys
from typing import Any, Final, NoReturn

import click

from architect.cli.terminal import printable, spinner

VERSION: Final = "0.1.0"
SOCKET: Final = "/run/architect/architectd.sock"
FAILED: Final = 1
_DOWN: Final = 2
LOOK_SECONDS: Final = 10.0
# The daemon's own deadlines for the shims, and a little for the way.
HIBERNATE_SECONDS: Final = 330.0
WAKE_SECONDS: Final = 150.0

as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")
container = click.argument("container")


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(VERSION, prog_name="architect")
@click.option(
    "--socket", default=SOCKET, show_default=True, envvar="ARCHITECT_SOCKET", help="The daemon's socket."
)
@click.pass_context
def cli(context: click.Context, socket: str) -> None:
    """See, explain, put to sleep and wake the containers of this node.

    CONTAINER is POD/CONTAINER, NAMESPACE/POD/CONTAINER, or the first 8 or more characters of a container's
    id.
    """
    context.obj = socket


@cli.command()
@as_json
@click.pass_obj
def status(socket: str, as_json: bool) -> None:
    """Show every container and what it does."""
    answer = _ask(socket, "GET", "/v1/containers", LOOK_SECONDS)
    if as_json:
        print_json(answer)
        return
    from architect.cli.tables import show_status

    show_status(answer)


@cli.command()
@container
@as_json
@click.pass_obj
def explain(socket: str, container: str, as_json: bool) -> None:
    """Say whether CONTAINER can hibernate, why not, and what it waits for."""
    answer = _ask_about(socket, "GET", container, "explain", LOOK_SECONDS)
    if as_json:
        print_json(answer)
        return
    from architect.cli.tables import show_explanation

    show_explanation(answer)


@cli.command()
@container
@as_json
@click.pass_obj
def hibernate(socket: str, container: str, as_json: bool) -> None:
    """Put CONTAINER to sleep now, idle or not."""
    with spinner(f"putting {container} to sleep"):
        answer = _ask_about(socket, "POST", container, "hibernate", HIBERNATE_SECONDS)
    print_outcome(answer, as_json)


@cli.command()
@container
@as_json
@click.pass_obj
def wake(socket: str, container: str, as_json: bool) -> None:
    """Wake CONTAINER; one that is awake stays so."""
    with spinner(f"waking {container}"):
        answer = _ask_about(socket, "POST", container, "wake", WAKE_SECONDS)
    print_outcome(answer, as_json)


@cli.command()
@as_json
@click.pass_obj
def kept(socket: str, as_json: bool) -> None:
    """Show the states that have left this node and that nobody has taken: each is kept for a day."""
    answer = _ask(socket, "GET", "/v1/kept", LOOK_SECONDS)
    if as_json:
        print_json(answer)
        return
    from architect.cli.tables import show_kept

    show_kept(answer)


@cli.command()
@as_json
def doctor(as_json: bool) -> None:
    """Check whether this node can run Architect."""
    from architect.cli.doctor import examine_node

    with spinner("examining this node"):
        findings = examine_node()
    sound = all(finding.passed for finding in findings)
    if as_json:
        checks = [
            {"check": f.check, "passed": f.passed, "detail": f.detail, "cure": f.cure} for f in findings
        ]
        print_json({"passed": sound, "checks": checks})
    else:
        from architect.cli.tables import show_findings

        show_findings(findings)
    if not sound:
        sys.exit(FAILED)


def _ask_about(socket: str, method: str, name: str, action: str, seconds: float) -> dict[str, Any]:
    from architect.cli.daemon_api import resource

    return _ask(socket, method, resource(name, action), seconds)


def _ask(socket: str, method: str, resource: str, seconds: float) -> dict[str, Any]:
    """The daemon's answer; ends the program with a sentence when there is none, or it is an error."""
    from architect.cli import daemon_api

    try:
        return daemon_api.ask(socket, method, resource, timeout=seconds)
    except daemon_api.Down as error:
        end(str(error), _DOWN)
    except daemon_api.Failed as error:
        end(str(error), FAILED)


def end(sentence: str, code: int) -> NoReturn:
    """Ends the program with a sentence."""
    click.echo(f"architect: {printable(sentence)}", err=True)
    sys.exit(code)


def print_json(answer: dict[str, Any]) -> None:
    """For programs."""
    click.echo(json.dumps(answer, indent=2))


def print_outcome(answer: dict[str, Any], as_json: bool) -> None:
    """What a sleep or a wake came to."""
    if as_json:
        print_json(answer)
        return
    from architect.cli.tables import show_outcome

    show_outcome(answer)
