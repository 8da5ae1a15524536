"""The installer on a node: `H=/opt/architect/current; $H/bin/python3 -IS $H/daemon/installer/run.py ...`."""

import os
import sys

_HOME = os.path.dirname(os.path.dirname(os.path.dirname(os.path.realpath(__file__))))
sys.path.insert(0, _HOME)

from daemon.installer.__main__ import main  # noqa: E402  (the path above makes it importable without site)

sys.exit(main(digest=os.path.basename(_HOME)))
