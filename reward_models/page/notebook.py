"""Labelling inside a notebook: the label page's questions and keys in a cell.

Importing this needs no widgets; using it does: the extra `notebook`.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from text_gym.errors import ConfigError
from text_gym.reward_models.labels.questions import Question
from text_gym.reward_models.labels.store import LabelStore

from .sitting import Sitting


def label_widget(
    store: LabelStore | str | Path, rater: str, questions: Iterable[Question] | None = None
) -> Any:
    """Return a widget that asks a person the store's questions inside a notebook.

    Make it the last line of a cell. The cell does not wait; each answer is on the disk when the widget says
    "Saved", and `store.labels()` has it. Click the widget once, and the keys are those of the labelling page:
    digits, arrows, Enter, `s` skips, `u` takes back, `?` shows them all.

    Args:
        store: The label store, or the file it is in.
        rater: Who answers.
        questions: What is asked, put into the store where it is not there yet; all that is in the store if
            None.

    Raises:
        ConfigError: anywidget is not installed.
        StoreError: The file is no label store, or damaged.
    """
    try:
        from text_gym.reward_models.page.widget import LabelWidget
    except ModuleNotFoundError as error:
        raise ConfigError(f"the widget needs {error.name}; install it with: pip install anywidget") from error
    opened = store if isinstance(store, LabelStore) else LabelStore(store)
    among = None if questions is None else opened.put(questions)
    return LabelWidget(Sitting(opened, rater, among))
