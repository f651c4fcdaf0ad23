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

_INSTRUCTIONS = {
    "avx2": "AVX2",
    "avx512f": "AVX-512",
    "avx_vnni": "AVX-VNNI",
    "avx512_vnni": "AVX-512 VNNI",
    "avx512_bf16": "AVX-512 BF16",
    "amx_int8": "AMX int8",
    "asimd": "NEON",
    "asimddp": "NEON dot product",
    "i8mm": "NEON int8 matrix product",
    "bf16": "NEON bfloat16",
}
"""As Linux calls them, and as people do."""

_PACKAGES = ("torch", "torchvision", "timm", "onnx", "onnxruntime", "numpy", "pillow")


@cache
def hardware() -> dict[str, Any]:
    """Processor, cores, memory, GPU and system, as they go into every result file.

    `instructions` names what decides how fast a processor computes in integers and bfloat16, such as
    `AVX-512 VNNI`; the name of a rented processor often does not tell.
    """
    import torch

    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return {
        "cpu": _cpu_name(),
        "instructions": _instructions(),
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


def _instructions() -> str | None:
    """Of `_INSTRUCTIONS` what there is; `None` where the system does not say."""
    cpuinfo = Path("/proc/cpuinfo")
    if not cpuinfo.exists():
        return None
    lines = (line.partition(":") for line in cpuinfo.read_text().splitlines())
    flags = next((text.split() for key, _, text in lines if key.strip() in {"flags", "Features"}), [])
    return ", ".join(name for flag, name in _INSTRUCTIONS.items() if flag in flags) or None


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
