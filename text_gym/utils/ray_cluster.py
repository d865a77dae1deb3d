"""Ray, an extra: found or missed by name, and connected to a cluster when something first needs it."""

from __future__ import annotations

import logging
import os
import sys
import threading
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from typing import Any

from text_gym.errors import MissingLibraryError

_STARTING = threading.Lock()


def load_ray(what: str) -> Any:
    """Import Ray.

    Args:
        what: What needs it, for the error.

    Raises:
        MissingLibraryError: It is not installed.
    """
    try:
        import ray
    except ImportError as error:
        raise MissingLibraryError(what, "ray", "text-gym[ray]") from error
    return ray


def running_ray(what: str, workers: int | None = None, *, show: bool = False) -> Any:
    """Return Ray, connected to the cluster of `RAY_ADDRESS` or to one of this machine that is started now.

    A local cluster imports what this program can import, and ends with it.

    Args:
        what: What needs it, for the error.
        workers: Cores that a local cluster may use; all if None.
        show: Print here what its processes print.

    Raises:
        MissingLibraryError: Ray is not installed.
    """
    ray = load_ray(what)
    with _STARTING:
        if not ray.is_initialized():
            _in_lasting_thread(partial(_start, ray, workers, show))
    return ray


def _in_lasting_thread(start: Callable[[], None]) -> None:
    """Call `start` in a thread that lasts as long as the program.

    On Linux the processes of a local cluster end with the thread that started them (PR_SET_PDEATHSIG).
    """
    if threading.current_thread() is threading.main_thread():
        start()
        return
    answer: Future[None] = Future()

    def last() -> None:
        try:
            start()
            answer.set_result(None)
        except BaseException as error:
            answer.set_exception(error)
        else:
            threading.Event().wait()

    threading.Thread(target=last, name="ray", daemon=True).start()
    answer.result()


def _start(ray: Any, workers: int | None, show: bool) -> None:
    own = {} if os.environ.get("RAY_ADDRESS") else {"num_cpus": workers, "include_dashboard": False}
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join(path or os.getcwd() for path in sys.path)
    try:
        ray.init(log_to_driver=show, logging_level=logging.ERROR, **own)
    finally:
        if before is None:
            os.environ.pop("PYTHONPATH")
        else:
            os.environ["PYTHONPATH"] = before
