"""What an engine can tell its caller, named by what the caller does next."""

from __future__ import annotations


class EngineError(Exception):
    """The engine could not do what was asked; the message says what happened and, if known, what to do.

    `evidence` holds the last lines of the engine's log, for diagnosis.
    """

    def __init__(self, message: str, *, evidence: str = "") -> None:
        super().__init__(message)
        self.evidence = evidence


class Refused(EngineError):
    """This container can not be put to sleep by this engine, now or ever; nothing was changed."""


class Declined(EngineError):
    """The caller's own check stopped the dump at its last moment; the container runs on, unchanged."""
