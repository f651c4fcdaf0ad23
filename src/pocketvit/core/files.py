"""Files that are either whole or not there: write beside the target, flush to the disk, rename."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import uuid
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pocketvit.core.errors import StorageError

__all__ = ["atomic_path", "read_json", "sha256_of", "write_bytes", "write_json", "write_text"]

_NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


@contextmanager
def atomic_path(target: Path) -> Generator[Path]:
    """Yield a temporary path beside `target`; on a clean exit it becomes `target`, otherwise it is removed.

    A reader never sees half a file, and a failed write leaves the previous `target` untouched.

    Raises:
        StorageError: the disk is full or the folder cannot be written.
    """
    temporary = target.with_name(f".{target.name}.{uuid.uuid4().hex[:8]}.tmp")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        _flush_to_disk(temporary)
        temporary.replace(target)
        _flush_to_disk(target.parent)
    except OSError as error:
        raise _as_storage_error(error, target) from error
    finally:
        temporary.unlink(missing_ok=True)


def write_bytes(target: Path, content: bytes) -> None:
    """Write `content` to `target` atomically.

    Raises:
        StorageError: the disk is full or the folder cannot be written.
    """
    with atomic_path(target) as temporary:
        temporary.write_bytes(content)


def write_text(target: Path, content: str) -> None:
    """Write UTF-8 text to `target` atomically; raises as `write_bytes`."""
    write_bytes(target, content.encode())


def write_json(target: Path, value: Any) -> None:
    """Write `value` as indented JSON to `target` atomically; raises as `write_bytes`."""
    write_text(target, json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """Parse a JSON file; `FileNotFoundError` and `json.JSONDecodeError` are the caller's to explain."""
    return json.loads(path.read_text(encoding="utf-8"))


def sha256_of(path: Path) -> str:
    """Hexadecimal SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _flush_to_disk(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _as_storage_error(error: OSError, target: Path) -> StorageError:
    if error.errno in _NO_ROOM:
        return StorageError(
            f"The disk is full: {target} was not written. What was there before is untouched.",
            fix="Free some space (or choose another --out folder) and run the same command again.",
        )
    return StorageError(f"{target} cannot be written: {error.strerror}.", fix="Choose another folder.")
