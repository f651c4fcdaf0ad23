"""The one tree of exceptions.

::

    PocketvitError                1   anything below; the CLI prints the message and exits with the code
    ├── ConfigError               2   an option, a recipe or a file of settings is wrong
    │   └── UnknownNameError      2   a name that is not registered; says the nearest ones
    ├── BudgetError               3   no registered model fits the budget
    ├── DataError                 4   the images or labels cannot be used
    │   └── DamagedImageError     4   one image cannot be decoded
    ├── CheckpointError           5   a weights file is truncated, foreign or of another architecture
    ├── ExportError               6   a model file could not be written
    │   └── VerificationError     6   it was written, but does not compute what the network computes
    ├── RunError                  7   a run directory is missing, foreign or busy
    ├── StorageError              8   disk full or not writable
    ├── TrainingError             9   training cannot go on (the loss is no longer a number)
    └── InterruptedRun           75   stopped on request; the run can be resumed

The number is the exit code of the command line.
"""

from __future__ import annotations

__all__ = [
    "BudgetError",
    "CheckpointError",
    "ConfigError",
    "DamagedImageError",
    "DataError",
    "ExportError",
    "InterruptedRun",
    "PocketvitError",
    "RunError",
    "StorageError",
    "TrainingError",
    "UnknownNameError",
    "VerificationError",
]


class PocketvitError(Exception):
    """Base of every error the library raises on purpose.

    Args:
        message: what happened and where.
        fix: what the reader can do about it; shown on its own line.
    """

    exit_code = 1

    def __init__(self, message: str, *, fix: str = "") -> None:
        super().__init__(f"{message}\n{fix}" if fix else message)
        self.message = message
        self.fix = fix


class ConfigError(PocketvitError):
    """An option, a recipe or a file of settings is wrong."""

    exit_code = 2


class UnknownNameError(ConfigError):
    """A name that is not registered."""


class BudgetError(PocketvitError):
    """No registered model fits the budget."""

    exit_code = 3


class DataError(PocketvitError):
    """The images or labels cannot be used."""

    exit_code = 4


class DamagedImageError(DataError):
    """One image cannot be decoded."""


class CheckpointError(PocketvitError):
    """A weights file is truncated, foreign or of another architecture."""

    exit_code = 5


class ExportError(PocketvitError):
    """A model file could not be written."""

    exit_code = 6


class VerificationError(ExportError):
    """An exported file does not compute what the network computes."""


class RunError(PocketvitError):
    """A run directory is missing, foreign or busy."""

    exit_code = 7


class StorageError(PocketvitError):
    """The disk is full or cannot be written."""

    exit_code = 8


class TrainingError(PocketvitError):
    """Training cannot go on."""

    exit_code = 9


class InterruptedRun(PocketvitError):  # noqa: N818 - not a fault: the run stopped because it was asked to
    """Stopped on request; the run can be resumed."""

    exit_code = 75
