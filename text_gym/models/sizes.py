"""Sizes that decide how fast a model runs and how much memory it takes, in one place.

They are guesses: those for a CPU were found on one machine, those for CUDA are arithmetic. `text-gym tune`
measures what others are worth. Other sizes also add numbers in another order and so change last digits: a run
has others than the defaults only if it is asked to, and keeps those that it began with.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields
from typing import Any

import torch

from text_gym.errors import ConfigError


def _size(default: float, least: float, most: float) -> Any:
    return field(default=default, metadata={"range": (least, most)})


@dataclass(frozen=True)
class Sizes:
    """The sizes of one kind of device; the defaults here are a CPU's.

    Args:
        pass_overhead: The cost of one more pass through the model in an update, in tokens.
        pass_bytes: Bytes that a pass on a CPU may keep for its backward pass; one that needs more is split.
        free_share: The same on an accelerator, as a share of its free memory: what a token needs is an
            estimate.
        scored_rows: Texts that go through the model at a time, at most, where nothing is learnt from them.
        whole_bytes: All logits of an update are held at once up to this size; more are formed in tiles.
        tile_rows: Tokens of a tile.
        tile_ids: Ids of a tile.
        min_rows_to_pack: On a CPU, packing the second matrix of a product pays off from about this many rows
            of the first.
        drawn_at_once: Logits that a CPU without kernels draws tokens from at a time, so that they stay in its
            cache.
        recorded_steps: Steps of a rollout whose values are computed together.
        tell_every: Steps after which the environment is told what was drawn.
        compact_below: Finished rows are dropped from a rollout once no more than this share plays.
        width_bucket: On an accelerator, widths of the KV cache are multiples of this, so that the same shapes
            come again and again.
        small_threads: CPU threads for a small model; measured with up to two cores.

    Raises:
        ConfigError: A size is no number of its kind, or out of range.
    """

    pass_overhead: int = _size(96, 0, 2**24)
    pass_bytes: int = _size(2**28, 2**16, 2**44)
    free_share: float = _size(0.5, 0.05, 0.95)
    scored_rows: int = _size(64, 1, 2**20)
    whole_bytes: int = _size(2**25, 0, 2**44)
    tile_rows: int = _size(1024, 1, 2**20)
    tile_ids: int = _size(512, 1, 2**20)
    min_rows_to_pack: int = _size(256, 1, 2**24)
    drawn_at_once: int = _size(2**19, 1, 2**44)
    recorded_steps: int = _size(32, 1, 4096)
    tell_every: int = _size(1, 1, 4096)
    compact_below: float = _size(0.9, 0, 1)
    width_bucket: int = _size(128, 1, 2**16)
    small_threads: int = _size(4, 1, 1024)

    def __post_init__(self) -> None:
        for each in fields(self):
            value, (least, most) = getattr(self, each.name), each.metadata["range"]
            whole = each.type == "int"
            fits = isinstance(value, int if whole else (int, float)) and not isinstance(value, bool)
            if not (fits and least <= value <= most):
                kind = "whole number" if whole else "number"
                raise ConfigError(
                    f"the size {each.name} is {value!r}; it must be a {kind} from {least} to {most}"
                )


DEFAULTS = {
    "cpu": Sizes(),
    # `pass_bytes` is for plans of an accelerator whose free memory is unknown.
    "cuda": Sizes(pass_overhead=8192, pass_bytes=2**32, tile_rows=2048, tile_ids=8192, tell_every=16),
}
_in_use = dict(DEFAULTS)


def kind_of(device: torch.device) -> str:
    """Return the kind of device that sizes belong to: `"cpu"`, or `"cuda"` for every accelerator."""
    return "cpu" if device.type == "cpu" else "cuda"


def sizes_of(device: torch.device) -> Sizes:
    """Return the sizes in use on this kind of device.

    >>> sizes_of(torch.device("cpu")).tile_rows
    1024
    """
    return _in_use[kind_of(device)]


@contextmanager
def using(sizes: Sizes, device: torch.device) -> Iterator[None]:
    """Use these sizes on this kind of device within the block.

    They hold in every thread of the process, since autograd and rewards have threads of their own; so two
    threads must not use different ones at the same time.

    >>> with using(Sizes(tile_rows=2048), torch.device("cpu")):
    ...     sizes_of(torch.device("cpu")).tile_rows
    2048
    """
    kind = kind_of(device)
    before, _in_use[kind] = _in_use[kind], sizes
    try:
        yield
    finally:
        _in_use[kind] = before


def unlike_defaults(sizes: Sizes, device: torch.device) -> str:
    """Name the sizes that are not this kind of device's defaults, in a phrase.

    >>> unlike_defaults(Sizes(tile_rows=2048, tell_every=2), torch.device("cpu"))
    'tile_rows 2048 in place of 1024, tell_every 2 in place of 1'
    """
    usual = asdict(DEFAULTS[kind_of(device)])
    changed = {name: value for name, value in asdict(sizes).items() if value != usual[name]}
    return ", ".join(f"{k} {v} in place of {usual[k]}" for k, v in changed.items()) or "the defaults"
