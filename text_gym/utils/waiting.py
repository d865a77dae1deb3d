"""Shows that something is being loaded, from before it is imported: a bar in a terminal, else a line."""

from __future__ import annotations

from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from .terminal import SafeConsole


class Waiting:
    """A bar that runs to and fro until the context is left; where there is no terminal, one line.

    Args:
        waiting_for: What for, e.g. `"loading PyTorch and the policy"`; shown at once.
        console: Where to.
        show: False shows nothing, for a process that another one speaks for.
    """

    def __init__(self, waiting_for: str, console: Console | None = None, *, show: bool = True) -> None:
        self.console = console or SafeConsole()
        self._bar: Progress | None = None
        if not show:
            return
        if self.console.is_terminal:
            columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
            self._bar = Progress(*columns, console=self.console, transient=True)
            self._bar.add_task(waiting_for, total=None)
            self._bar.start()
        else:
            print(f"{waiting_for} …", flush=True)

    def __enter__(self) -> Waiting:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """End the display; doing so twice is no harm."""
        if self._bar is not None:
            self._bar.stop()
