from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path

import pytest

from text_gym.utils.stopping import stop_signals

if not hasattr(signal, "SIGHUP"):
    pytest.skip("POSIX signals", allow_module_level=True)
ROOT = Path(__file__).parents[2]
TERM, HUP, INT = signal.SIGTERM, signal.SIGHUP, signal.SIGINT


@pytest.fixture(autouse=True)
def _as_on_a_terminal() -> Iterator[None]:
    """Under nohup SIGHUP is ignored, and then it stops nobody."""
    before = signal.signal(HUP, signal.SIG_DFL)
    yield
    signal.signal(HUP, before)


def send(number: int) -> None:
    os.kill(os.getpid(), number)


def work(*numbers: int, patient: bool = True, error: BaseException | None = None) -> list[str]:
    """Gets signals while it works; what it still did, in order."""
    done: list[str] = []
    try:
        with stop_signals() as stop, stop.patience() if patient else nullcontext():
            for number in numbers:
                send(number)
                done.append(signal.Signals(stop.signal or 0).name)
            if error is not None:
                raise error
            done.append("saved")
    except BaseException as end:
        end.__notes__ = done
        raise
    return done


@pytest.mark.parametrize(("number", "code"), [(TERM, 143), (HUP, 129)])
def test_work_in_progress_is_ended_first(number: int, code: int) -> None:
    with pytest.raises(SystemExit) as end:
        work(number)
    assert end.value.code == code
    assert end.value.__notes__ == [signal.Signals(number).name, "saved"]


def test_after_ctrl_c_the_run_goes_on_to_show_what_was_learnt() -> None:
    assert work(INT) == ["SIGINT", "saved"]
    with stop_signals() as stop:
        with stop.patience():
            send(INT)
        assert stop.signal == INT
        with pytest.raises(KeyboardInterrupt):  # a second one is meant
            send(INT)


@pytest.mark.parametrize(("second", "error"), [(INT, KeyboardInterrupt), (TERM, SystemExit)])
def test_a_second_signal_does_not_wait(second: int, error: type[BaseException]) -> None:
    with pytest.raises(error) as end:
        work(INT, second)
    assert end.value.__notes__ == ["SIGINT"]


@pytest.mark.parametrize(("number", "error"), [(INT, KeyboardInterrupt), (TERM, SystemExit)])
def test_where_nothing_is_to_be_saved_a_signal_is_obeyed_at_once(
    number: int, error: type[BaseException]
) -> None:
    with pytest.raises(error) as end:
        work(number, patient=False)
    assert end.value.__notes__ == []


def test_an_error_in_the_work_is_not_hidden() -> None:
    with pytest.raises(ZeroDivisionError):
        work(TERM, error=ZeroDivisionError())


def test_handlers_are_put_back_and_nohup_is_respected() -> None:
    before = [signal.getsignal(n) for n in (TERM, INT)]
    hup = signal.signal(HUP, signal.SIG_IGN)
    try:
        with stop_signals() as stop:
            assert signal.getsignal(TERM) == stop.handle
            send(HUP)
            assert stop.signal is None
        assert signal.getsignal(HUP) == signal.SIG_IGN
    finally:
        signal.signal(HUP, hup)
    assert [signal.getsignal(n) for n in (TERM, INT)] == before


def test_other_threads_leave_the_signals_alone() -> None:
    seen = []

    def work() -> None:
        with stop_signals() as stop, stop.patience():
            seen.append(stop.signal)

    before = signal.getsignal(TERM)
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [None]
    assert signal.getsignal(TERM) == before


def test_as_on_windows_there_is_no_sighup() -> None:
    program = """
import os, signal
from tests.without_posix import hide
hide()
from text_gym.utils.stopping import stop_signals
try:
    with stop_signals() as stop, stop.patience():
        os.kill(os.getpid(), signal.SIGTERM)
        print("saved", flush=True)
except SystemExit as end:
    print(end.code)
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT, check=False, timeout=120
    )
    assert done.stdout.split() == ["saved", "143"], done.stderr
