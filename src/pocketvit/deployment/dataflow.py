"""What feeds what in a network: one run on shapes alone, recorded call by call.

A rewrite may only merge two layers when nothing else reads what passes between them; module names do not
tell, the run does.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from timm.layers.norm_act import BatchNormAct2d
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.overrides import TorchFunctionMode

from pocketvit.core.errors import ExportError

__all__ = ["Call", "Flow", "trace_flow"]


@dataclass(frozen=True, kw_only=True, eq=False)
class Call:
    """One call of a module without children, or of a function outside of such a module.

    Attributes:
        name: the module's dotted name, or the function's name.
        is_module: which of the two.
        inputs: numbers of the tensors read.
        outputs: numbers of the tensors returned.
        shape: of the first output.
        elements: numbers written to new memory; 0 for views and in-place work.
    """

    name: str
    is_module: bool
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    shape: tuple[int, ...]
    elements: int


@dataclass(frozen=True)
class Flow:
    """All calls of one run, in order, the numbers of the tensors that left the network, where it ran."""

    calls: tuple[Call, ...]
    results: frozenset[int]
    device: torch.device

    @property
    def elements(self) -> int:
        """Activation elements written for one image."""
        return sum(call.elements for call in self.calls)

    def call_of(self, name: str) -> Call | None:
        """The call of a module; `None` unless it is called exactly once."""
        found = [call for call in self.calls if call.is_module and call.name == name]
        return found[0] if len(found) == 1 else None

    def readers(self, call: Call) -> list[Call]:
        """Who reads what `call` returned; empty when it also leaves the network, where nobody can tell."""
        if self.results.intersection(call.outputs):
            return []
        return [other for other in self.calls if other is not call and set(call.outputs) & set(other.inputs)]

    def next_module(self, name: str) -> Call | None:
        """The module call that alone reads the output of module `name`, itself called once."""
        call = self.call_of(name)
        readers = self.readers(call) if call else []
        alone = len(readers) == 1 and readers[0].is_module and self.call_of(readers[0].name) is not None
        return readers[0] if alone else None


def trace_flow(model: nn.Module, *, size: int, in_chans: int = 3) -> Flow:
    """Run a copy of `model` on one image, in evaluation mode; on shapes alone if the network can.

    Raises:
        ExportError: it cannot run on one image of this size.
    """
    try:
        return _trace(model, size, in_chans, torch.device("meta"))
    except (RuntimeError, NotImplementedError):  # it looks at numbers, or makes tensors of its own
        pass
    try:
        return _trace(model, size, in_chans, torch.device("cpu"))
    except RuntimeError as error:
        reason = str(error).strip().partition("\n")[0]
        raise ExportError(
            f"{type(model).__name__} cannot run on one {size}×{size} image: {reason}"
        ) from error


def _trace(model: nn.Module, size: int, in_chans: int, device: torch.device) -> Flow:
    ghost = copy.deepcopy(model).to(device).eval()
    recorder = _Recorder()
    for name, module in ghost.named_modules():
        if name and _is_leaf(module):
            module.register_forward_pre_hook(recorder.enter)
            module.register_forward_hook(recorder.leave(name))
    image = torch.zeros(1, in_chans, size, size, device=device, dtype=next(ghost.parameters()).dtype)
    with torch.no_grad(), recorder:
        result = ghost(image)
    return Flow(tuple(recorder.calls), frozenset(id(tensor) for tensor in _tensors(result)), device)


def _is_leaf(module: nn.Module) -> bool:
    return isinstance(module, BatchNormAct2d) or not any(True for _ in module.children())


class _Recorder(TorchFunctionMode):
    def __init__(self) -> None:
        super().__init__()
        self.calls: list[Call] = []
        self._kept: list[Tensor] = []  # a number is a tensor's id, so no tensor may die during the run
        self._entered: list[list[tuple[Tensor, int]]] = []

    def enter(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        self._entered.append([(tensor, _version(tensor)) for tensor in _tensors(args)])

    def leave(self, name: str) -> Callable[[nn.Module, Any, Any], None]:
        def hook(module: nn.Module, args: Any, result: Any) -> None:
            before = self._entered.pop()
            if not self._entered:
                self._record(name, True, before, _tensors(result))

        return hook

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        inputs = [] if self._entered else _tensors((args, kwargs or {}))
        before = [(tensor, _version(tensor)) for tensor in inputs]
        result = func(*args, **(kwargs or {}))
        if not self._entered and (outputs := _tensors(result)):
            self._record(getattr(func, "__name__", str(func)), False, before, outputs)
        return result

    def _record(
        self, name: str, is_module: bool, before: list[tuple[Tensor, int]], outputs: list[Tensor]
    ) -> None:
        unchanged = all(_version(tensor) == version for tensor, version in before)
        known = {id(tensor) for tensor, _ in before}
        if unchanged and outputs and all(id(tensor) in known for tensor in outputs):
            return  # Identity, dropout in evaluation mode: nothing happened
        memory = {_memory(tensor) for tensor, _ in before}
        self._kept += [*outputs, *(tensor for tensor, _ in before)]
        self.calls.append(
            Call(
                name=name,
                is_module=is_module,
                inputs=tuple(id(tensor) for tensor, _ in before),
                outputs=tuple(id(tensor) for tensor in outputs),
                shape=tuple(outputs[0].shape) if outputs else (),
                elements=sum(tensor.numel() for tensor in outputs if _memory(tensor) not in memory)
                + (_scores(before) if name == "scaled_dot_product_attention" else 0),
            )
        )


def _scores(before: list[tuple[Tensor, int]]) -> int:
    """What attention written as two products stores in between: the scores, before and after the softmax."""
    query, key = before[0][0], before[1][0]
    return 2 * query.shape[:-1].numel() * key.shape[-2]


def _version(tensor: Tensor) -> int:
    """Counts in-place changes."""
    return tensor._version


def _memory(tensor: Tensor) -> int:
    """What a tensor shares with its views."""
    return StorageWeakRef(tensor.untyped_storage()).cdata


def _tensors(value: Any) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list | tuple):
        return [tensor for item in value for tensor in _tensors(item)]
    return []
