"""The run directory: the only hand-over between the stages of a job.

::

    run/
      run.json          config, seed, versions, hardware, and for each stage when it finished and from what
      data.json         classes, counts, fingerprint, problems found in the data
      model.json        the chosen architecture, its candidates and why
      training.json     what training did; metrics.jsonl has a line per epoch
      checkpoints/      safetensors + JSON, see pocketvit.training.checkpoints
      evaluation.json   accuracy, confusion matrix, mistakes
      model.onnx        the deliverable; export.json says how it was verified
      model.int8.onnx   the same in integers, where asked for; quantization.json says how and how well
      benchmark.json    latency, memory, size beside a MobileNet
      report.html       all of it, for people
"""

from __future__ import annotations

import fcntl
import json
import shutil
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pocketvit.core.errors import RunError, StorageError
from pocketvit.core.files import read_json, write_json
from pocketvit.core.machine import hardware, versions

__all__ = ["QUANTIZATION", "RunDirectory"]

_FORMAT = 1

QUANTIZATION = "quantization.json"
"""What is known of the integer file."""

_FILES = (
    "run.json",
    "data.json",
    "model.json",
    "training.json",
    "metrics.jsonl",
    "evaluation.json",
    "model.onnx",
    "export.json",
    QUANTIZATION,
    "benchmark.json",
    "report.html",
)


class RunDirectory:
    """A folder with the files above.

    Args:
        path: the folder; made when it is missing.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    @classmethod
    def open(cls, path: Path) -> RunDirectory:
        """An existing run.

        Raises:
            RunError: there is no run at `path`.
        """
        if not (path / "run.json").is_file():
            raise RunError(
                f"{path} is not a run directory: it has no run.json.",
                fix="Give the folder that `pocketvit build` or `pocketvit train` wrote.",
            )
        return cls(path)

    @property
    def checkpoints(self) -> Path:
        """Folder of the checkpoints."""
        return self.path / "checkpoints"

    @property
    def onnx(self) -> Path:
        """The exported model."""
        return self.path / "model.onnx"

    @property
    def integer_file(self) -> Path | None:
        """The file that computes in integers and that `quantization.json` speaks of, if there is one.

        Raises:
            RunError: `quantization.json` is damaged.
        """
        if not self.has(QUANTIZATION) or "wrote" not in self.stage("quantize"):
            return None
        path = self.path / self.read(QUANTIZATION)["file"]
        return path if path.is_file() else None

    @property
    def report(self) -> Path:
        """The report."""
        return self.path / "report.html"

    def clear(self) -> None:
        """Remove what an earlier run wrote here, and nothing else."""
        shutil.rmtree(self.checkpoints, ignore_errors=True)
        for path in [*(self.path / name for name in _FILES), *self.path.glob("model.*.onnx")]:
            path.unlink(missing_ok=True)

    def has(self, name: str) -> bool:
        """Whether the file `name` is there."""
        return (self.path / name).exists()

    def read(self, name: str) -> Any:
        """The content of the JSON file `name`.

        Raises:
            RunError: it is missing or damaged.
        """
        try:
            return read_json(self.path / name)
        except FileNotFoundError:
            raise RunError(
                f"{self.path} has no {name}: that stage has not finished.",
                fix="Run `pocketvit build` on this run directory again; finished stages are reused.",
            ) from None
        except (json.JSONDecodeError, UnicodeDecodeError) as error:
            raise RunError(
                f"{self.path / name} is damaged: {error}", fix="Delete it and run the same command again."
            ) from None

    def write(self, name: str, value: Any) -> None:
        """Write `value` to the JSON file `name`, atomically.

        Raises:
            StorageError: the disk is full or the folder cannot be written.
        """
        write_json(self.path / name, value)

    def begin(self, *, command: str, config: Mapping[str, Any], seed: int) -> None:
        """Write or refresh `run.json`, keeping what finished stages recorded there."""
        earlier = self.read("run.json") if self.has("run.json") else {}
        now = _now()
        self.write(
            "run.json",
            {
                "format": _FORMAT,
                "created": earlier.get("created", now),
                "updated": now,
                "command": command,
                "config": dict(config),
                "seed": seed,
                "versions": versions(),
                "hardware": hardware(),
                "stages": earlier.get("stages", {}),
            },
        )

    def stage(self, name: str) -> dict[str, Any]:
        """What `run.json` records of a stage; empty when it never started."""
        return self.read("run.json")["stages"].get(name, {})

    def stage_is_done(self, name: str, key: str) -> bool:
        """Whether the stage finished from the inputs behind `key`, and all it wrote is still there."""
        record = self.stage(name)
        return (
            record.get("key") == key and "wrote" in record and all(self.has(file) for file in record["wrote"])
        )

    def start_stage(self, name: str, key: str) -> None:
        """Record that a stage begins; until it finishes the record has no `wrote`."""
        self._record(name, {"key": key, "started": _now()})

    def finish_stage(self, name: str, key: str, *, seconds: float, wrote: list[str]) -> None:
        """Record that a stage finished and which files it left."""
        self._record(name, {"key": key, "seconds": round(seconds, 2), "finished": _now(), "wrote": wrote})

    def _record(self, name: str, record: dict[str, Any]) -> None:
        run = self.read("run.json")
        run["stages"][name] = record
        self.write("run.json", run)

    def append_metrics(self, row: Mapping[str, Any]) -> None:
        """Add a line to `metrics.jsonl`.

        Raises:
            StorageError: the disk is full.
        """
        path = self.path / "metrics.jsonl"
        try:
            with path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(dict(row), allow_nan=False) + "\n")
        except OSError as error:
            raise StorageError(f"{path} cannot be written: {error.strerror}.") from error

    def read_metrics(self) -> list[dict[str, Any]]:
        """The rows of `metrics.jsonl`, a half-written last line left out."""
        path = self.path / "metrics.jsonl"
        rows: list[dict[str, Any]] = []
        for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else []:
            try:
                rows.append(json.loads(line))
            except json.JSONDecodeError:
                break
        return rows

    @contextmanager
    def locked(self) -> Generator[None]:
        """Hold the run so that no second process writes to it.

        Raises:
            RunError: another process holds it.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        with (self.path / ".lock").open("w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise RunError(
                    f"Another pocketvit process is working in {self.path}.",
                    fix="Wait for it, or give --out another folder.",
                ) from None
            yield


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
