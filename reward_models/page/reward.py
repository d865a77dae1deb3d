"""The labelling page as the live reward of a training run, and behind `text-gym label --web`.

Importing this needs no web server; using it does: `pip install starlette uvicorn`.
"""

from __future__ import annotations

import atexit
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from text_gym.errors import ConfigError
from text_gym.reward_models.labels.questions import CRITERIA, LabelCriterion
from text_gym.reward_models.labels.store import LabelStore
from text_gym.reward_models.people.human import STORE, HumanReward
from text_gym.utils.display import counted

if TYPE_CHECKING:
    from .page import LabelPage


class WebReward(HumanReward):
    """A `HumanReward` that asks on a web page, where several raters can answer at once.

    The page is served from construction to `close`, or to the end of the process; its link is printed.

    Args:
        store: The label store, or the file it is in.
        criteria: What texts are rated for.
        weights: How much each criterion counts; all the same if None.
        overlap: Raters per text.
        page: Arguments of `LabelPage`: `host`, `port`, `names`, `expose`, `say`. Without a port, any that is
            free will do if the usual one is taken: the link says which.

    Raises:
        ConfigError: As for `HumanReward` and `LabelPage`; or the web server is not installed.
    """

    def __init__(
        self,
        store: LabelStore | str | Path = STORE,
        *,
        criteria: Sequence[LabelCriterion] = CRITERIA,
        weights: Sequence[float] | None = None,
        overlap: int = 1,
        **page: Any,
    ) -> None:
        opened = store if isinstance(store, LabelStore) else LabelStore(store)
        self.page = _page_at_any_port(opened, page)
        try:
            super().__init__(opened, self.page.ask, criteria=criteria, weights=weights, overlap=overlap)
        except BaseException:
            self.page.close()
            raise
        self.page.start()
        atexit.register(self.close)

    def close(self) -> None:
        """Tell the raters that it is over and stop serving the page; acknowledged answers are saved."""
        atexit.unregister(self.close)
        self.page.close()


def _page_at_any_port(store: LabelStore, settings: dict[str, Any]) -> LabelPage:
    if "port" in settings:
        return make_page(store, live=True, **settings)
    try:
        return make_page(store, live=True, **settings)
    except ConfigError:
        return make_page(store, live=True, port=0, **settings)


def make_page(store: LabelStore, **settings: Any) -> LabelPage:
    """Make a `LabelPage` without serving it yet.

    Args:
        store: Gives the questions and keeps the answers.
        settings: Arguments of `LabelPage`.

    Raises:
        ConfigError: The web server is not installed, or see `LabelPage`.
    """
    try:
        from text_gym.reward_models.page.page import LabelPage
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"the page needs {error.name}; install it with: pip install starlette uvicorn"
        ) from error
    return LabelPage(store, **settings)


def serve_page(store: LabelStore, **settings: Any) -> None:
    """Serve all questions of a store until Ctrl-C, and report how many answers came in.

    Args:
        store: Gives the questions and keeps the answers.
        settings: Arguments of `LabelPage`.
    """
    before = store.head[0]
    with make_page(store, **settings) as page:
        print("Ctrl-C ends it; every answer that a page calls saved is on the disk.", flush=True)
        page.wait()
    print(f"\n{counted(store.head[0] - before, 'new row')} in {store.path}")
