"""The version before this one, as users had it: images and chart, made from its commit by its own scripts.

For the test of upgrades: pods that were started by an older shim are there when a newer daemon comes. No
version has been released yet; the commit is the first whose chart can be upgraded, and calls
itself 0.0.9 here.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

import recipe
import trees

COMMIT = "734763e7ca34c301efa215bae64c470123d94125"
VERSION = "0.0.9"
_NAMES_VERSION = (
    "pyproject.toml",
    "daemon/__init__.py",
    "webhook/__init__.py",
    "deploy/charts/architect/Chart.yaml",
)


def binds() -> dict[str, str]:
    """Where a box has `chart/`, `images/node.tar`, `images/control.tar`; nowhere if git lacks the commit."""
    if not _git("cat-file", "-e", f"{COMMIT}^{{commit}}"):
        return {}
    key = recipe.digest(COMMIT, VERSION, os.path.basename(trees.tree("forky")))
    return {"/opt/previous": trees.product(f"previous/{key}", _build)}


def _git(*arguments: str) -> bool:
    argv = ["git", "-c", "safe.directory=*", "-C", recipe.CHECKOUT, *arguments]
    try:
        return not subprocess.run(argv, capture_output=True, timeout=60, check=False).returncode
    except FileNotFoundError:
        return False


def _build(at: str, log: str) -> None:
    source = f"{at}/source"
    os.mkdir(source)
    if not _git("archive", f"--output={at}/source.tar", COMMIT):
        raise trees.BuildFailed(f"git cannot archive {COMMIT}")
    trees.run(["tar", "--extract", f"--file={at}/source.tar", f"--directory={source}"], log)
    for name in _NAMES_VERSION:
        _rename(f"{source}/{name}")
    trees.run(["env", f"ARCHITECT_CACHE={recipe.CACHE}", sys.executable, f"{source}/hack/shipped.py"], log)
    with open(log, encoding="utf-8") as file:
        archives = [line for line in file.read().splitlines() if line.endswith(".tar")][-2:]
    os.mkdir(f"{at}/images")
    for archive in archives:
        shutil.copy(archive, f"{at}/images")
    shutil.move(f"{source}/deploy/charts/architect", f"{at}/chart")
    shutil.rmtree(source)
    os.unlink(f"{at}/source.tar")


def _rename(path: str) -> None:
    """Has a file name our VERSION instead of its own."""
    with open(path, encoding="utf-8") as file:
        text = file.read()
    with open(path, "w", encoding="utf-8") as file:
        file.write(text.replace("0.1.0", VERSION))
