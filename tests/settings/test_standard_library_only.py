"""What the shim imports lives on the standard library: no wheel decides which hosts it runs on."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import architect

PACKAGES = ["settings", "probes", "states", "untrusted", "files", "images", "ttrpc", "engine", "gate"]
ROOT = Path(architect.__file__).parent

PROGRAM = """
import sys
sys.modules["ssl"] = None  # as the shim does: whoever imports it fails
import pkgutil, importlib, pathlib
stub = type(sys)("architect"); stub.__path__ = [sys.argv[1]]; sys.modules["architect"] = stub
before = set(sys.modules)
package = importlib.import_module("architect." + sys.argv[2])
for _, name, _ in pkgutil.walk_packages(getattr(package, "__path__", []), package.__name__ + "."):
    importlib.import_module(name)
roots = {name.partition(".")[0] for name in set(sys.modules) - before}
print(*sorted(roots - sys.stdlib_module_names - {"architect"}))
"""


@pytest.mark.parametrize("package", PACKAGES)
def test_it_imports_with_nothing_installed_and_without_ssl(package: str) -> None:
    if not (ROOT / package).exists() and not (ROOT / f"{package}.py").exists():
        pytest.fail(f"architect.{package} is gone; take it off the list")
    # -S -I: no site-packages, no environment. A missing third-party package would be an ImportError.
    done = subprocess.run(
        [sys.executable, "-S", "-I", "-c", PROGRAM, str(ROOT), package],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == []
