#!/usr/bin/env python3
"""A throw-away node on this machine: `node.py up` builds it, `node.py run` runs a command in a fresh one.

Nothing on the host changes but the cache directory ($ARCHITECT_CACHE, /var/cache/architect).
"""

from __future__ import annotations

import argparse
import shutil
import sys

import box
import images
import recipe
import shipped
import trees


def main() -> int:
    """Parse the command line and do it; returns the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    verbs = parser.add_subparsers(dest="verb", required=True)
    up = verbs.add_parser("up", help="build what boxes are made of; `run` does it when needed")
    known = ", ".join(recipe.FLAVOURS)
    up.add_argument("flavours", nargs="*", metavar="flavour", help=f"{known}; by default all that are tested")
    run = verbs.add_parser("run", help="run a command, or a shell, in a fresh node")
    run.add_argument("flavour", choices=recipe.FLAVOURS)
    run.add_argument("--bare", action="store_true", help="without containerd and images")
    run.add_argument("--shipped", action="store_true", help="with what users install, below /opt/shipped")
    run.add_argument("argv", nargs=argparse.REMAINDER, metavar="-- command", help="default: bash")
    verbs.add_parser("clean", help="remove the cache")
    arguments = parser.parse_args()
    try:
        if arguments.verb == "up":
            unknown = sorted(set(arguments.flavours) - set(recipe.FLAVOURS))
            if unknown:
                parser.error(f"no such flavour: {', '.join(unknown)}; there are {known}")
            for name in arguments.flavours or recipe.TESTED:
                trees.environment(recipe.FLAVOURS[name].tree)
            images.directory()
        elif arguments.verb == "clean":
            box.sweep()
            shutil.rmtree(recipe.CACHE, ignore_errors=True)
        else:
            argv = [part for part in arguments.argv[:1] if part != "--"] + arguments.argv[1:]
            loaded = "" if arguments.bare else images.directory()
            flavour = recipe.FLAVOURS[arguments.flavour]
            contents = box.Contents({"/opt/images": loaded, **shipped.binds()}) if arguments.shipped else None
            return box.run(flavour, argv or ["bash"], images=loaded, contents=contents)
    except (box.Impossible, trees.BuildFailed) as error:
        print(f"node.py: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
