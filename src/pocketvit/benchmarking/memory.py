"""How much memory a file needs to run, measured in a process of its own.

Run as a program (`python -m pocketvit.benchmarking.memory RUNTIME FILE THREADS SIZE`) this module is that
process: it imports the runtime, notes its resident memory, loads the file, classifies a few images, and
prints both sizes as JSON.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
import psutil

from pocketvit.benchmarking.runtimes import Runtime
from pocketvit.core.errors import PocketvitError

__all__ = ["DEFINITION", "peak_memory"]

DEFINITION = (
    "peak resident memory of a fresh process that loads the file and runs it at batch 1, less what the same "
    "process holds with only the runtime imported; MB = 10^6 bytes"
)
"""What `peak_memory` measures, for result files."""

_RUNS = 3
_TIMEOUT = 600  # seconds


def peak_memory(path: Path, *, runtime: str, threads: int, size: int) -> int:
    """Bytes that loading and running `path` adds to a process; see `DEFINITION`.

    Args:
        size: height and width of the input, pixels.

    Raises:
        PocketvitError: the process failed, such as for lack of memory.
    """
    command = [sys.executable, "-m", __name__, runtime, str(path), str(threads), str(size)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT, check=True)
    except subprocess.CalledProcessError as error:
        last = error.stderr.strip().rpartition("\n")[2]
        raise PocketvitError(
            f"Measuring the memory of {path} failed (exit code {error.returncode}): {last}"
        ) from error
    except subprocess.TimeoutExpired as error:
        raise PocketvitError(f"Measuring the memory of {path} took more than {_TIMEOUT} s.") from error
    found = json.loads(done.stdout)
    return found["peak"] - found["idle"]


def _probe(runtime: str, path: Path, *, threads: int, size: int) -> dict[str, int]:
    open_file = Runtime.load(runtime).open_file
    image = np.ones((1, 3, size, size), np.float32)
    idle = psutil.Process().memory_info().rss
    run = open_file(path, threads=threads)
    for _ in range(_RUNS):
        run(image)
    return {"idle": idle, "peak": _peak_resident()}


def _peak_resident() -> int:
    """Largest resident size of this process so far, bytes.

    Linux's own `ru_maxrss` would not do: a process starts with that of the one that launched it.
    """
    status = Path("/proc/self/status")
    if status.exists():
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


if __name__ == "__main__":
    name, file, count, pixels = sys.argv[1:]
    print(json.dumps(_probe(name, Path(file), threads=int(count), size=int(pixels))))
