"""The command `architect` (also `kubectl architect`): what a person types.

`architect` asks the node's daemon over its unix socket, `kubectl architect` the API server and through it the
daemons. Nothing of them is imported. Imports are late throughout: `--help` and completion must feel instant.
"""


def main() -> None:
    """Runs the command line."""
    from architect.cli.commands import cli

    cli(prog_name="architect")


def kubectl() -> None:
    """Runs the plugin that kubectl finds by its name: `kubectl architect`."""
    from architect.cli.kubectl import kubectl_cli

    kubectl_cli(prog_name="kubectl architect")
