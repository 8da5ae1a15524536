"""Where our shim and containerd's own are known to differ, and why; a difference that is gone fails too."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

_EXACT: Final = (
    "containerd's shim has no code for it (UNKNOWN) or a looser one; callers take both as a failure"
)
_NO_PID: Final = "no process was ever made; containerd's shim reads the pid that runc's failed attempt left"
# What may differ: case -> entry -> why; the case "*" is every case. One that does not differ fails.
ALLOWED: Final[Mapping[str, Mapping[str, str]]] = {
    "*": {"left: socket": "containerd's shim leaves its socket to the next start; ours takes it away"},
    "made_or_started_twice_or_deleted_too_soon": {"Start c1 (2)": _EXACT, "Delete c1": _EXACT},
    "the_same_id_twice": {"Create c1 (2)": _EXACT},
    "what_nobody_knows": {"CloseIO c1 nobody": _EXACT},
    "a_bundle_that_is_none": {"Create c2": _EXACT, "Create c3": _EXACT},
    "a_spec_that_is_no_json": {"Create c2": _EXACT},
    "a_root_that_cannot_be_mounted": {"delete command c1": _NO_PID},
    "a_program_that_is_not_there": {"delete command c1": _NO_PID},
    "a_log_binary_that_is_not_there": {
        **dict.fromkeys(("Create c1 (2)", "Create c1 (3)", "Create c1 (4)"), _EXACT),
        "delete command c1": _NO_PID,
        "left: bundle c1": "the same pid",
    },
    "a_runtime_that_is_not_there": {"delete command c1": _NO_PID},
    "before_the_start": {"Checkpoint c1": _EXACT},
    "from_nothing": {"delete command c1": _NO_PID},
    "deleted_before_its_start": {
        "Delete c1": "ours says how runc ended it; containerd's shim deletes before it knows",
        "events": "the same: its exit comes after its delete there, before it here",
    },
    "an_exec_of_nothing": {"Exec c1 e2": _EXACT},
    "an_exec_that_runs": {"Delete c1 e1": _EXACT},
    "an_exec_that_outlives_its_container": {
        "Exec c1 e2": _EXACT,
        "Start c1 e2": "the exec was refused; containerd's shim looks at the container first",
    },
    "paused": {"Exec c1 e1": _EXACT, "Delete c1": _EXACT},
    "limits_that_are_none": {"Update c1": _EXACT, "Update c1 (2)": _EXACT},
    "questions_after_the_end": {
        "Pause c1": _EXACT,
        "Update c1": _EXACT,
        "Checkpoint c1": _EXACT,
        "Start c1 (2)": _EXACT,
    },
}
# Files that only one of the two leaves in a bundle, which containerd removes as a whole.
FILES: Final[Mapping[str, str]] = {
    "address": "where containerd 1.7 finds a shim after its restart; containerd's own writes it there too",
    "log.json": "runc's log; ours reads runc's complaint from its standard error",
    "options.json": "containerd's shim keeps the options for its `delete`",
    "runtime": "the same",
    "e1.pid": "the pid of an exec that nobody deleted, under its name",
    "exec-e1.pid": "the same; ours, where no exec can be called `init`",
    "architect-deleted": "what ours will answer to `delete`, which containerd calls for every container",
    "architect-runtime.json": "ours does, when they name another runc or root",
}
