"""The command `architect` (also `kubectl architect`): what a person types.

It asks the node's daemon over its unix socket and imports nothing of it. Imports are late throughout:
`--help` and completion must feel instant.
"""


def main() -> None:
    """Runs the command line."""
    from architect.cli.commands import cli

    cli(prog_name="architect")
