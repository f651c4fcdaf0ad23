"""The machine a result was made on: hardware, versions, device choice."""

from __future__ import annotations

import os
import platform
import subprocess
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

import psutil

from pocketvit._version import __version__
from pocketvit.core.errors import ConfigError

__all__ = ["DeviceName", "choose_device", "hardware", "physical_cores", "usable_cores", "versions"]

DeviceName = Literal["auto", "cpu", "cuda", "mps"]

_PACKAGES = ("torch", "torchvision", "timm", "onnx", "onnxruntime", "numpy", "pillow")


@cache
def hardware() -> dict[str, Any]:
    """Processor, cores, memory, GPU and system, as they go into every result file."""
    import torch

    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return {
        "cpu": _cpu_name(),
        "cores": usable_cores(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "gpu": ", ".join(gpus) or None,
        "system": f"{platform.system()} {platform.machine()}",
    }


@cache
def versions() -> dict[str, str]:
    """Versions of Python, this library and what it computes with."""
    found = {"pocketvit": __version__, "python": platform.python_version()}
    for package in _PACKAGES:
        found[package] = metadata.version(package)
    return found


def usable_cores() -> int:
    """Cores this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)


def physical_cores() -> int:
    """Cores without hyper-threads, never more than `usable_cores`."""
    return min(psutil.cpu_count(logical=False) or 1, usable_cores())


def choose_device(name: DeviceName = "auto") -> Any:
    """The `torch.device` to compute on; `auto` takes CUDA, then Apple's MPS, then the CPU.

    Raises:
        ConfigError: the device was asked for by name and is not there.
    """
    import torch

    present = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if name == "auto":
        return torch.device(next(device for device, there in present.items() if there))
    if not present[name]:
        raise ConfigError(
            f"This machine has no usable '{name}' device.", fix="Use --device auto or --device cpu."
        )
    return torch.device(name)


def _cpu_name() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    if platform.system() == "Darwin":
        answer = subprocess.run(
            ["sysctl", "-n", "machdep.cpu.brand_string"], capture_output=True, text=True, check=False
        )
        return answer.stdout.strip() or platform.processor()
    return platform.processor() or platform.machine()
