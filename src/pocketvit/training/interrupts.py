"""Stop on request: the first signal asks, the second one ends."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Generator, Iterable
from types import FrameType, TracebackType
from typing import Any, TypeVar

from pocketvit.core.console import console
from pocketvit.core.errors import InterruptedRun

__all__ = ["StopRequest"]

T = TypeVar("T")

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class StopRequest:
    """While it is entered, SIGINT and SIGTERM only set `requested`; a second one acts as it did before.

    Signals can be caught in the main thread alone; elsewhere this catches nothing.
    """

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None
        self._before: dict[signal.Signals, Any] = {}

    @property
    def requested(self) -> bool:
        """Whether somebody asked to stop."""
        return self.signal is not None

    def watch(self, items: Iterable[T]) -> Generator[T]:
        """`items`, until somebody asks to stop; the item under way is finished first.

        Raises:
            InterruptedRun: somebody asked.
        """
        for item in items:
            yield item
            if self.signal is not None:
                raise InterruptedRun(f"Stopped by {self.signal.name}.")

    def __enter__(self) -> StopRequest:
        if threading.current_thread() is threading.main_thread():
            self._owner = os.getpid()
            self._before = {number: signal.signal(number, self._caught) for number in _SIGNALS}
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self._restore()

    def _caught(self, number: int, _: FrameType | None) -> None:
        if (
            self.requested or os.getpid() != self._owner
        ):  # a second signal, or a worker forked from this process
            self._restore()
            os.kill(os.getpid(), number)
            return
        self.signal = signal.Signals(number)
        console.print("[yellow]Finishing this step and saving; once more to stop at once.[/]")

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}
