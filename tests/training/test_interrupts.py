import os
import signal
import threading
import time

import pytest

from pocketvit.core.errors import InterruptedRun
from pocketvit.training.interrupts import StopRequest

SIGNALS = [signal.SIGINT, signal.SIGTERM]


@pytest.mark.parametrize("number", SIGNALS)
def test_the_first_signal_lets_the_item_finish_and_handlers_come_back(number):
    before = [signal.getsignal(n) for n in SIGNALS]
    done = []

    def work():
        with StopRequest() as stop:
            for item in stop.watch(range(10)):
                if item == 3:
                    os.kill(os.getpid(), number)
                done.append(item)

    with pytest.raises(InterruptedRun, match=f"Stopped by {number.name}"):
        work()
    assert done == [0, 1, 2, 3]
    assert [signal.getsignal(n) for n in SIGNALS] == before


def test_nothing_happens_without_a_signal():
    with StopRequest() as stop:
        assert list(stop.watch("abc")) == ["a", "b", "c"]
        assert not stop.requested


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
@pytest.mark.parametrize("number", SIGNALS)
def test_the_second_signal_ends_the_process_at_once(number):
    child = os.fork()
    if not child:
        try:
            signal.signal(signal.SIGINT, signal.SIG_DFL)  # a job in the background begins with it ignored
            with StopRequest():
                os.kill(os.getpid(), number)
                os.kill(os.getpid(), number)
                time.sleep(30)
        finally:
            os._exit(0)  # whatever happens, no second process goes on with the tests
    assert os.WTERMSIG(os.waitpid(child, 0)[1]) == number


def test_outside_the_main_thread_it_catches_nothing():
    before = [signal.getsignal(n) for n in SIGNALS]
    seen = []

    def work():
        with StopRequest() as stop:
            seen.append((list(stop.watch([1])), [signal.getsignal(n) for n in SIGNALS]))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [([1], before)]
