"""Draws running episodes: a line of text, or a picture of fixed size for videos.

A model's text is hostile: it is escaped before it is shown. Nothing is drawn by anyone else's font than the
one that comes with matplotlib, so that pictures are the same on every machine.
"""

from __future__ import annotations

import shutil
import sys
from abc import ABC, abstractmethod
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from text_gym.episode import Episode, FloatArray
from text_gym.errors import ConfigError
from text_gym.tokenizer import Tokenizer
from text_gym.utils.display import harmless, plain_stream

from .episode_batch import EpisodeBatch
from .options import check_choice

Frame: TypeAlias = npt.NDArray[np.uint8]
Color: TypeAlias = tuple[int, int, int]
COLUMNS, LINES = 64, 16  # of the picture, in characters
CELL_WIDTH, CELL_HEIGHT = 10, 20  # of a character, in pixels
_FONT_SIZE = 16
_PAPER, _INK, _GREY = (255, 255, 255), (30, 30, 30), (120, 120, 120)
_NEWEST, _FIELD, _YES, _NO = (255, 214, 150), (240, 243, 248), (46, 140, 87), (192, 57, 43)


class Renderer(ABC):
    """Draws every row of a batch.

    Args:
        batch: What is drawn.
    """

    def __init__(self, batch: EpisodeBatch) -> None:
        self.batch = batch

    def paid(self, rewards: FloatArray) -> None:
        """Take note of a step's (or a reset's) rewards `(B,)`."""
        return

    @abstractmethod
    def frames(self) -> tuple[Any, ...]:
        """Return a frame for each row."""


class LineRenderer(Renderer):
    """Draws a row as prompt and completion on one line."""

    def frames(self) -> tuple[str, ...]:
        """Return `B` strings, safe to print."""
        episodes = self.batch.episodes(np.arange(self.batch.num_rows))
        return tuple(
            f"{harmless(e.prompt.text)}│{harmless(e.completion)}{'■' if e.done else '▁'}" for e in episodes
        )


class PictureRenderer(Renderer):
    """Draws a row as `(320, 640, 3)` uint8: prompt, text so far, newest token, its reward, the action mask.

    Long texts lose their beginning. Characters that the font lacks (emoji, say) are shown as a box.
    """

    def __init__(self, batch: EpisodeBatch) -> None:
        super().__init__(batch)
        _glyph("x")  # so that a missing library is told now
        self._last = np.zeros(batch.num_rows)
        self._returns = np.zeros(batch.num_rows)

    def paid(self, rewards: FloatArray) -> None:
        """Add the rewards up, from each episode's beginning."""
        fresh = self.batch.lengths == self.batch.starts
        self._last = np.where(fresh, 0.0, rewards)
        self._returns = np.where(fresh, 0.0, self._returns + rewards)

    def frames(self) -> tuple[Frame, ...]:
        """Return `B` pictures."""
        batch = self.batch
        masks = batch.action_masks() if batch.mask is not None else [None] * batch.num_rows
        episodes = batch.episodes(np.arange(batch.num_rows))
        return tuple(
            draw_episode(e, batch.max_tokens, float(last), float(total), mask)
            for e, last, total, mask in zip(episodes, self._last, self._returns, masks, strict=True)
        )


def renderer_of(mode: str | None, batch: EpisodeBatch) -> Renderer | None:
    """Make the renderer of a mode: "ansi", "rgb_array" or None.

    Raises:
        ConfigError: Another mode.
    """
    if mode == "human":
        raise ConfigError(
            'render_mode="human" shows one text as it grows: use gymnasium.make, or render_mode="rgb_array" '
            "and gymnasium.wrappers.vector.HumanRendering, which opens a window"
        )
    check_choice("render_mode", mode, [None, "ansi", "rgb_array"])
    return None if mode is None else LineRenderer(batch) if mode == "ansi" else PictureRenderer(batch)


def print_episode(line: str, reward: float, done: bool) -> None:
    """Show an episode in the terminal, on one line that grows; elsewhere print the line once it is over.

    Args:
        line: Prompt and completion so far, safe to print.
        reward: Of the newest step.
        done: The episode is over.
    """
    if done:
        line = f"{line} {reward:+.3g}"
    if sys.stdout.isatty():
        room = shutil.get_terminal_size().columns - 1
        shown = line if len(line) <= room else f"…{line[len(line) - room + 1 :]}"
        print(f"\r\x1b[2K{shown}", end="\n" if done else "", flush=True, file=plain_stream(sys.stdout))
    elif done:
        print(line, flush=True)


# Pictures


def draw_episode(
    episode: Episode, max_tokens: int, reward: float, total: float, allowed: npt.NDArray[np.bool_] | None
) -> Frame:
    """Draw an episode as it stands.

    Args:
        episode: The episode.
        max_tokens: `T`, its token limit.
        reward: What the newest token was paid.
        total: What all its tokens were paid so far.
        allowed: `(V,)` bool, the tokens that may come next; None if there is no mask.

    Returns:
        `(320, 640, 3)` uint8.
    """
    frame = np.full((LINES * CELL_HEIGHT, COLUMNS * CELL_WIDTH, 3), 255, dtype=np.uint8)
    written = len(episode.completion_ids)
    _write(frame, 0, 1, "prompt", _GREY)
    _paragraph(frame, 1, 4, episode.prompt.text, "")
    _write(frame, 5, 1, "text so far", _GREY)
    _write(frame, 5, 40, f"{written:>4} of {max_tokens} tokens"[:23].rjust(23), _GREY)
    before, newest = _newest(episode)
    _paragraph(frame, 6, 6, before, newest)
    if written:
        _write(frame, 12, 1, "token", _GREY)
        _write(frame, 12, 8, _name(int(episode.completion_ids[-1]), episode.tokenizer), _INK, _NEWEST)
    _write(frame, 12, 34, "reward", _GREY)
    _write(frame, 12, 41, f"{reward:+.3f}"[:9], _YES if reward > 0 else _NO if reward < 0 else _INK)
    _write(frame, 13, 34, "return", _GREY)
    _write(frame, 13, 41, f"{total:+.3f}"[:9], _YES if total > 0 else _NO if total < 0 else _INK)
    ends = {"eos": "ended", "stop": "ended by a stop string", "length": "cut at the limit"}
    _write(frame, 13, 1, "going on" if episode.finish_reason is None else ends[episode.finish_reason], _GREY)
    if allowed is not None:
        _write(frame, 14, 1, f"{np.count_nonzero(allowed):,} of {len(allowed):,} tokens allowed", _GREY)
        _strip(frame[15 * CELL_HEIGHT + 3 : -6, CELL_WIDTH:-CELL_WIDTH], allowed)
    return frame


def _newest(episode: Episode) -> tuple[str, str]:
    """Split the completion into what stood there before the newest token, and what that added."""
    text = episode.completion
    before = episode.tokenizer.decode(episode.completion_ids[:-1].tolist())
    same = next((i for i, (a, b) in enumerate(zip(text, before, strict=False)) if a != b), None)
    cut = min(len(text), len(before)) if same is None else same
    return text[:cut], text[cut:]


def _name(token: int, tokenizer: Tokenizer) -> str:
    """Name a token in at most 24 characters."""
    text = "end of text" if token in tokenizer.eos_ids else f"'{harmless(tokenizer.decode([token])[:24])}'"
    number = f" ({token})"
    room = 24 - len(number)
    return (text if len(text) <= room else f"{text[: room - 1]}…") + number


def _paragraph(frame: Frame, top: int, lines: int, text: str, newest: str) -> None:
    """Write the end of a text into a field of so many lines, with its newest part marked."""
    frame[top * CELL_HEIGHT : (top + lines) * CELL_HEIGHT, CELL_WIDTH:-CELL_WIDTH] = _FIELD
    width = COLUMNS - 4
    room = lines * width  # more characters than that cannot be seen, whatever they are
    cut = len(text) + len(newest) > room
    parts = ((text[-room:], _FIELD), (newest[-room:], _NEWEST))
    rows: list[list[tuple[str, Color]]] = [[]]
    for part, paper in parts:
        for char in harmless(part, newlines=True):
            if char == "\n" or len(rows[-1]) == width:
                rows.append([])
            if char != "\n":
                rows[-1].append((char, paper))
    cut = cut or len(rows) > lines
    rows = rows[-lines:]
    if cut:
        rows[0][:1] = [("…", _FIELD)]
    for i, row in enumerate(rows):
        for j, (char, paper) in enumerate(row):
            _put_char(frame, top + i, j + 2, char, _INK, paper)


def _write(frame: Frame, line: int, column: int, text: str, ink: Color, paper: Color = _PAPER) -> None:
    for i, char in enumerate(text[: COLUMNS - column]):
        _put_char(frame, line, column + i, char, ink, paper)


def _put_char(frame: Frame, line: int, column: int, char: str, ink: Color, paper: Color) -> None:
    y, x = line * CELL_HEIGHT, column * CELL_WIDTH
    frame[y : y + CELL_HEIGHT, x : x + CELL_WIDTH] = _colored(char, ink, paper)


@lru_cache(maxsize=4096)
def _colored(char: str, ink: Color, paper: Color) -> Frame:
    """Return a character in colors, `(20, 10, 3)` uint8."""
    cover = _glyph(char)[:, :, None] / 255.0
    mixed: Frame = np.rint(np.array(paper) * (1 - cover) + np.array(ink) * cover).astype(np.uint8)
    return mixed


@lru_cache(maxsize=4096)
def _glyph(char: str) -> npt.NDArray[np.uint8]:
    """Return how much ink a character has in each pixel of its cell, `(20, 10)` uint8."""
    from PIL import Image, ImageDraw

    image = Image.new("L", (CELL_WIDTH, CELL_HEIGHT))
    ImageDraw.Draw(image).text((0, 1), char, fill=255, font=_font())
    return np.asarray(image)


@lru_cache(maxsize=1)
def _font() -> Any:
    from PIL import ImageFont

    found = find_spec("matplotlib")
    places = [] if found is None else list(found.submodule_search_locations or ())
    for place in places:
        file = Path(place) / "mpl-data/fonts/ttf/DejaVuSansMono.ttf"
        if file.is_file():
            return ImageFont.truetype(str(file), _FONT_SIZE, layout_engine=ImageFont.Layout.BASIC)
    return ImageFont.load_default(_FONT_SIZE)


def _strip(field: Frame, allowed: npt.NDArray[np.bool_]) -> None:
    """Draw the mask from id 0 on the left to `V - 1` on the right: green is allowed, red is not."""
    edges = np.linspace(0, len(allowed), field.shape[1] + 1).astype(np.int64)
    sums = np.concatenate([[0], np.cumsum(allowed)])
    last = np.maximum(edges[1:], edges[:-1] + 1)
    share = (sums[last] - sums[edges[:-1]]) / (last - edges[:-1])
    field[:] = np.rint(share[:, None] * np.array(_YES) + (1 - share[:, None]) * np.array(_NO))
