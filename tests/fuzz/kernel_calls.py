"""Calls of every compiled kernel with sizes drawn at random, held against their definitions in float64.

`python -m tests.fuzz.kernel_calls LIBRARY ROUNDS SEED` makes such calls with a library compiled elsewhere,
for instance with AddressSanitizer, whose guards stand in for ours.
"""

from __future__ import annotations

import ctypes
import itertools
import math
import random
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from text_gym.models.cpu import kernels as module
from text_gym.models.cpu.kernel_cache import ACTIVATIONS
from text_gym.models.cpu.kernel_types import LayerWeights, Places, Texts, TrunkWeights
from text_gym.models.cpu.kernels import Kernels
from text_gym.models.cpu.packing import pack_texts

Draw = Callable[[int, int], int]  # an integer from the first number to the second
GUARD = 48  # elements before and behind what is handed out
CANARY = {torch.float32: math.nan, torch.float64: math.nan, torch.int64: -(2**62) - 1}


class Guards:
    """Memory whose surroundings are watched, and that holds NaN until something is written there."""

    def __init__(self) -> None:
        self._watched: list[tuple[Tensor, int, int]] = []

    def new(self, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        """Hand out memory that begins at an address of any remainder."""
        count, shift = math.prod(shape), len(self._watched) % 4
        whole = torch.full((count + 2 * GUARD,), CANARY[dtype], dtype=dtype)
        begin = GUARD - shift
        self._watched.append((whole, begin, begin + count))
        return whole[begin : begin + count].view(shape)

    def check(self) -> None:
        """Nothing was written beside what was handed out."""
        for whole, begin, end in self._watched:
            wanted = torch.full_like(whole, CANARY[whole.dtype])
            for part in (slice(begin), slice(end, None)):
                assert whole[part].numpy().tobytes() == wanted[part].numpy().tobytes(), "wrote out of bounds"

    @contextmanager
    def in_place_of_torch(self) -> Iterator[None]:
        """The kernels' results and scratch memory are guarded, too."""

        def empty(*shape: Any, dtype: torch.dtype = torch.float32) -> Tensor:
            return self.new(*(shape[0] if shape and not isinstance(shape[0], int) else shape), dtype=dtype)

        def new_empty(x: Tensor, *shape: Any) -> Tensor:
            return empty(*shape, dtype=x.dtype)

        stand_in = SimpleNamespace(**vars(torch))
        stand_in.empty, stand_in.empty_like = empty, lambda x: new_empty(x, x.shape)
        kept = vars(module)["torch"]
        vars(module)["torch"] = stand_in
        torch.Tensor.new_empty = new_empty  # type: ignore[assignment, method-assign]
        torch.Tensor.new_zeros = lambda x, *shape: new_empty(x, *shape).zero_()  # type: ignore[assignment, method-assign]
        try:
            yield
        finally:
            vars(module)["torch"] = kept
            del torch.Tensor.new_empty, torch.Tensor.new_zeros


class Unguarded(Guards):
    """Memory of exactly the size asked for, which AddressSanitizer watches."""

    def new(self, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        """Hand out memory of its own."""
        return torch.full(shape, CANARY[dtype], dtype=dtype)

    @contextmanager
    def in_place_of_torch(self) -> Iterator[None]:
        """The kernels allocate as always."""
        yield


class Case:
    """What one call is made of."""

    def __init__(self, kernels: Kernels, draw: Draw, guards: Guards) -> None:
        self.kernels, self.draw, self.guards = kernels, draw, guards
        self._numbers = torch.Generator().manual_seed(draw(0, 2**31))

    def floats(self, *shape: int, scale: float = 1.0) -> Tensor:
        """Normal numbers, contiguous."""
        return self.guards.new(*shape).normal_(0, scale, generator=self._numbers)

    def matrix(self, rows: int, columns: int) -> Tensor:
        """Normal numbers that lie in rows, in columns, or in part of a larger matrix."""
        kind = self.draw(0, 3)
        if kind == 0:
            return self.floats(columns, rows).T
        if kind == 1:
            return self.floats(rows, columns + 5)[:, 3 : 3 + columns]
        return self.floats(2 * rows, columns)[::2] if kind == 2 else self.floats(rows, columns)

    def ids(self, *values: int) -> Tensor:
        """Whole numbers."""
        out = self.guards.new(len(values), dtype=torch.int64)
        out[:] = torch.tensor(values, dtype=torch.int64)
        return out

    def size(self, *usual: int) -> int:
        """A size around those at which loops and tiles change, or any small one."""
        return (
            max(0, usual[self.draw(0, len(usual) - 1)] + self.draw(-1, 1))
            if self.draw(0, 1)
            else self.draw(0, 40)
        )

    def agree(self, found: Tensor, wanted: Tensor, tolerance: float = 2e-5) -> None:
        """They are equal but for float32's rounding."""
        assert found.shape == wanted.shape
        room = tolerance * max(1.0, float(wanted.abs().max())) if wanted.numel() else 0.0
        assert torch.allclose(found.double(), wanted, rtol=tolerance, atol=room), (found, wanted)


def product(case: Case) -> None:
    """A product with weights of any strides, with a bias, added to something, or alone."""
    rows, inputs = case.size(8, 16, 32, 128), case.size(0, 64, 1024)
    parts = [case.matrix(inputs, case.size(16, 32, 64)) for _ in range(case.draw(1, 3))]
    x, weights = case.matrix(rows, inputs), torch.cat(parts, 1).double()
    kind = case.draw(0, 2)
    bias = case.floats(weights.shape[1]) if kind == 0 else None
    out = case.floats(rows, weights.shape[1]) if kind else None
    wanted = x.double() @ weights
    if bias is not None:
        wanted = wanted + bias.double()
    if kind == 2 and out is not None:
        wanted = wanted + out.double()
    panels = case.kernels.pack(*parts)
    again = case.kernels.pack(*parts, memory=panels.memory)
    case.agree(case.kernels.multiply(x, again, bias, out=out, add=kind == 2), wanted)


def elementwise(case: Case) -> None:
    """GELU, gates, and their gradients, over few numbers or enough for several threads."""
    count = case.size(0, 16, 1000) if case.draw(0, 3) else (1 << 15) + case.draw(0, 50)
    kind, rows = case.draw(0, 2), case.draw(1, 3)
    if kind == 0:
        x, slope = case.floats(count, scale=4.0), case.floats(count, scale=4.0)
        a = x.double().requires_grad_()
        wanted = F.gelu(a, approximate="tanh")
        found, of_x = case.kernels.gelu(x), case.kernels.gelu_backward(x, slope)
    else:
        x, slope = case.floats(rows, 2 * count, scale=4.0), case.floats(rows, count, scale=4.0)
        a = x.double().requires_grad_()
        b, c = a.chunk(2, 1)
        wanted = (F.silu(b) if ACTIVATIONS[kind] == "gated silu" else F.gelu(b, approximate="tanh")) * c
        found, of_x = case.kernels.gated(x, kind), case.kernels.gated_backward(x, kind, slope)
    case.agree(found, wanted.detach())
    case.agree(of_x, torch.autograd.grad(wanted, a, slope.double())[0])


def norms(case: Case) -> None:
    """The norm of root mean squares, and its gradients."""
    rows, width, epsilon = case.size(64, 128, 1000), 1 + case.size(16, 32), 1e-3
    x, gain, slope = case.floats(rows, width), case.floats(width), case.floats(rows, width)
    a, b = x.double().requires_grad_(), gain.double().requires_grad_()
    wanted = a / (a.square().mean(1, keepdim=True) + epsilon).sqrt() * b
    case.agree(case.kernels.root_norm(x, gain, epsilon), wanted.detach())
    beside = case.floats(rows, width) if case.draw(0, 1) else None
    found = case.kernels.root_norm_backward(x, gain, epsilon, slope, beside)
    of_x, of_gain = torch.autograd.grad(wanted, [a, b], slope.double())
    case.agree(found[0], of_x if beside is None else of_x + beside.double(), 1e-4)
    case.agree(found[1], of_gain, 1e-4)


def turned(x: Tensor, angles: Tensor) -> Tensor:
    """RoPE as a product of complex numbers: `(…, size)` turned by `(…, size / 2)`."""
    first, second = x.chunk(2, -1)
    found = torch.complex(first, second) * torch.exp(1j * angles)
    return torch.cat([found.real, found.imag], -1)


def rotations(case: Case) -> None:
    """The norms of heads and RoPE, either of them or both, forwards and backwards."""
    tokens, heads, size, context = case.size(3, 500), case.draw(1, 4), 2 * case.draw(1, 20), case.draw(1, 30)
    x, slope, angles = (
        case.floats(*shape) for shape in [(tokens, heads * size)] * 2 + [(context, size // 2)]
    )
    cosines, sines = case.guards.new(*angles.shape), case.guards.new(*angles.shape)
    cosines[:], sines[:] = angles.cos(), angles.sin()
    places = [case.draw(0, context - 1) for _ in range(min(tokens, 5))]
    positions = case.ids(*itertools.islice(itertools.cycle(places or [0]), tokens))
    gain, turns = case.floats(size) if case.draw(0, 1) else None, case.draw(0, 1)
    about = Places(positions, size, gain, 1e-3, (cosines, sines) if turns else None)
    a = x.double().requires_grad_()
    wanted = a.view(tokens, heads, size)
    of = [a]
    if gain is not None:
        of.append(gain.double().requires_grad_())
        wanted = wanted / (wanted.square().mean(-1, keepdim=True) + 1e-3).sqrt() * of[1]
    if turns:
        wanted = turned(wanted, angles.double()[positions][:, None])
    wanted = wanted.reshape(tokens, heads * size)
    kept = case.kernels.place(x, about, keep=True)
    case.agree(x, wanted.detach())
    slopes = torch.autograd.grad(wanted, of, slope.double())
    of_gain = case.kernels.place_backward(slope, kept, about)
    case.agree(slope, slopes[0], 1e-4)
    if of_gain is not None:
        case.agree(of_gain, slopes[1], 1e-4)


def attention(case: Case) -> None:
    """Causal attention of ragged texts, and its gradients."""
    count, tokens, heads = case.draw(0, 5), max(1, case.size(8, 16, 33)), case.draw(1, 3)
    size, scale = max(1, case.size(8, 16, 24, 32)), 0.3
    width, texts, queries = heads * size, [], 0
    for _ in range(count):
        asked = case.draw(0, tokens)
        texts.append((queries, asked, case.draw(0, tokens - asked) if asked < tokens else 0))
        queries += asked + case.draw(0, 2)  # between texts there may be tokens that nobody asks about
    q, kv = case.floats(queries, width), case.floats(count * tokens, 2 * width)
    k, v = kv.chunk(2, 1)
    columns = [case.ids(*column) for column in zip(*texts, strict=True)] or [case.ids() for _ in range(3)]
    about = Texts(*columns, tokens=tokens, heads=heads, size=size, scale=scale)
    doubles = [x.double().requires_grad_() for x in (q, k, v)]
    a, b, c = (x.view(-1, heads, size) for x in doubles)
    wanted = torch.zeros(queries, heads, size, dtype=torch.float64)
    for row, (begin, asked, first) in enumerate(texts):
        seen = slice(row * tokens, row * tokens + first + asked)
        later = torch.arange(first + asked) > torch.arange(asked)[:, None] + first
        weights = torch.einsum("qhd,khd->hqk", a[begin : begin + asked], b[seen]) * scale
        weights = weights.masked_fill(later, -math.inf).softmax(-1)
        wanted[begin : begin + asked] = torch.einsum("hqk,khd->qhd", weights, c[seen])
    wanted = wanted.view(queries, width)
    out, log_sums = case.kernels.attention(about, q, k, v)
    if not about.ragged:  # then memory is not cleared, and what lies between texts is nobody's
        inside = torch.zeros(queries, dtype=torch.bool)
        for begin, asked, _ in texts:
            inside[begin : begin + asked] = True
        out[~inside] = 0
    case.agree(out, wanted.detach())
    if not queries or not wanted.requires_grad:
        return
    slope = case.floats(queries, width)
    found = case.guards.new(queries, width).zero_(), case.guards.new(count * tokens, 2 * width).zero_()
    of = found[0], *found[1].chunk(2, 1)
    case.kernels.attention_backward(about, (q, k, v), log_sums, slope, of)
    for ours, theirs in zip(of, torch.autograd.grad(wanted, doubles, slope.double()), strict=True):
        case.agree(ours, theirs, 1e-4)


def trees(case: Case) -> None:
    """Attention of texts of which some begin alike, with heads of keys that several heads share."""
    groups, sharing, size = case.draw(1, 2), case.draw(1, 3), max(1, case.size(8, 16, 24, 32))
    rows, width = case.draw(1, 5), 18
    starts = torch.tensor([(3, 9)[case.draw(0, 1)] for _ in range(rows)])
    lengths = torch.tensor([case.draw(0, width - 9) for _ in range(rows)])
    tokens = torch.zeros(rows, width, dtype=torch.int64)
    tokens[:, 9:] = torch.arange(rows)[:, None]
    packed = pack_texts(tokens, starts, lengths)
    about = packed.texts(packed.everywhere, groups * sharing, groups, size, 0.3)
    n = len(packed.tokens)
    q, kv, slope = (case.floats(n, k * size) for k in (groups * sharing, 2 * groups, groups * sharing))
    doubles = [x.double().requires_grad_() for x in (q, kv)]
    a = doubles[0].view(n, groups, sharing, size)
    b, c = (x.reshape(n, groups, size) for x in doubles[1].chunk(2, 1))
    places, borders = (x.tolist() for x in packed.trees)
    counts, wanted = packed.everywhere.counts.tolist(), torch.zeros(n, groups, sharing, size).double()
    for first, end in itertools.pairwise(borders):
        for segment in range(first, end):
            own = [*range(places[segment], places[segment] + counts[segment])]
            before = [] if segment == first else [*range(places[first], places[first] + counts[first])]
            later = torch.arange(len(before + own)) > torch.arange(len(own))[:, None] + len(before)
            weights = torch.einsum("qgsd,kgd->gsqk", a[own], b[before + own]) * 0.3
            weights = weights.masked_fill(later, -math.inf).softmax(-1)
            wanted[own] = torch.einsum("gsqk,kgd->qgsd", weights, c[before + own])
    wanted = wanted.view(n, -1)
    out, log_sums = case.kernels.attention(about, q, *kv.chunk(2, 1))
    case.agree(out, wanted.detach())
    found = case.guards.new(*q.shape), case.guards.new(*kv.shape)
    of = found[0], *found[1].chunk(2, 1)
    case.kernels.attention_backward(about, (q, *kv.chunk(2, 1)), log_sums, slope, of)
    for ours, theirs in zip(found, torch.autograd.grad(wanted, doubles, slope.double()), strict=True):
        case.agree(ours, theirs, 1e-4)


def draws(case: Case) -> None:
    """Tokens drawn from a softmax by inverting its distribution."""
    rows, width = case.size(16, 33), max(1, case.size(64, 128, 500))
    logits = case.floats(rows, width, scale=3.0)
    logits[:, 1::7] = -math.inf
    u = case.guards.new(rows, dtype=torch.float64).uniform_(0, 1, generator=case._numbers)
    tokens, probs = case.kernels.draw(logits, u)
    assert ((tokens >= 0) & (tokens < width)).all()
    p = logits.double().softmax(1)
    upper, own = p.cumsum(1).gather(1, tokens[:, None])[:, 0], p.gather(1, tokens[:, None])[:, 0]
    assert (own > 0).all()
    assert ((upper - own <= u + 1e-5) & (u <= upper + 1e-5)).all()
    case.agree(probs[:, 0], own)


def normed(x: Tensor, gain: Tensor, offset: Tensor | None, epsilon: float) -> Tensor:
    """A layer norm, or without an offset that of root mean squares."""
    if offset is not None:
        return F.layer_norm(x, x.shape[-1:], gain, offset, epsilon)
    return x / (x.square().mean(-1, keepdim=True) + epsilon).sqrt() * gain


class Trunk:
    """A transformer of any size, its weights as the kernels want them and as their definition does."""

    def __init__(self, case: Case) -> None:
        draw = case.draw
        self.case, self.gated = case, draw(0, 2)
        self.groups, self.size = draw(1, 3), 2 * draw(1, 17)
        self.heads, self.inner, self.width = self.groups * draw(1, 3), draw(1, 40), draw(2, 40)
        self.context, self.vocabulary = draw(1, 40), draw(1, 20)
        self.room = self.context + draw(0, 3)
        self.embedding = case.floats(self.vocabulary, self.width)
        self.positions = None if draw(0, 1) else case.floats(self.context, self.width)
        self.angles = None if draw(0, 1) else case.floats(self.context, self.size // 2)
        self.offsets, self.biases, self.own_norms = draw(0, 1), draw(0, 1), draw(0, 1)
        self.norm = case.floats(self.width), self._maybe(self.offsets, self.width)
        self.layers = [self._layer() for _ in range(draw(1, 2))]
        self.embedding_scale = 1.0 if self.positions is not None else 1.5

    def _maybe(self, there: int, *shape: int) -> Tensor | None:
        return self.case.floats(*shape) if there else None

    def _layer(self) -> dict[str, Any]:
        width, of_heads = self.width, self.heads * self.size
        of_qkv, of_up = of_heads + 2 * self.groups * self.size, self.inner * (2 if self.gated else 1)
        floats, maybe = self.case.floats, self._maybe
        return {
            "gain_1": floats(width), "offset_1": maybe(self.offsets, width),
            "qkv": floats(width, of_qkv, scale=0.3), "qkv_bias": maybe(self.biases, of_qkv),
            "of_queries": maybe(self.own_norms, self.size), "of_keys": maybe(self.own_norms, self.size),
            "projection": floats(of_heads, width, scale=0.3), "projection_bias": maybe(self.biases, width),
            "gain_2": floats(width), "offset_2": maybe(self.offsets, width),
            "up": floats(width, of_up, scale=0.3), "up_bias": maybe(self.biases, of_up),
            "down": floats(self.inner, width, scale=0.3), "down_bias": maybe(self.biases, width),
        }  # fmt: skip

    def weights(self, caches: list[tuple[Tensor, Tensor]]) -> tuple[TrunkWeights, list[Any]]:
        """The structure that `step` takes, and what has to be kept while it is used."""
        layers, kept = (LayerWeights * len(self.layers))(), []
        cosines = sines = None
        if self.angles is not None:
            cosines, sines = (
                self.case.guards.new(*self.angles.shape),
                self.case.guards.new(*self.angles.shape),
            )
            cosines[:], sines[:] = self.angles.cos(), self.angles.sin()
        for to, layer, (keys, values) in zip(layers, self.layers, caches, strict=True):
            for name, tensor in {**layer, "cosines": cosines, "sines": sines}.items():
                if tensor is None:
                    continue
                if name in ("qkv", "projection", "up", "down"):
                    tensor = self.case.kernels.pack(tensor).memory
                kept.append(tensor)
                setattr(to, name, tensor.data_ptr())
            to.keys, to.values = keys.data_ptr(), values.data_ptr()
            to.scale, to.epsilon_1, to.epsilon_2 = self.size**-0.5, 1e-3, 2e-3
        found = TrunkWeights(
            layers=layers, count=len(layers), epsilon=1e-3, embedding_scale=self.embedding_scale
        )
        for name in ("width", "heads", "groups", "size", "inner", "room", "vocabulary", "context"):
            setattr(found, name, getattr(self, name))
        found.activation = self.gated
        named = {
            "embedding": self.embedding,
            "positions": self.positions,
            "gain": self.norm[0],
            "offset": self.norm[1],
        }
        for name, tensor in named.items():
            if tensor is not None:
                setattr(found, name, tensor.data_ptr())
        return found, [layers, cosines, sines, *kept]

    def read(self, tokens: Tensor, begin: int, caches: list[tuple[Tensor, Tensor]]) -> Tensor:
        """The states of a row's tokens from column `begin` on; `caches` (groups, room, size) are filled."""

        def double(x: Tensor | None) -> Any:
            return None if x is None else x.double()

        n = len(tokens)
        at = slice(begin, begin + n)
        x = double(self.embedding)[tokens]
        x = x + double(self.positions)[at] if self.positions is not None else x * self.embedding_scale
        later = torch.arange(begin + n) > torch.arange(n)[:, None] + begin
        for raw, (keys, values) in zip(self.layers, caches, strict=True):
            layer = {name: double(tensor) for name, tensor in raw.items()}
            biases = {name: 0.0 if layer[name] is None else layer[name] for name in layer if "bias" in name}
            h = normed(x, layer["gain_1"], layer["offset_1"], 1e-3) @ layer["qkv"] + biases["qkv_bias"]
            parts = h.view(n, self.heads + 2 * self.groups, self.size).split(
                [self.heads, self.groups, self.groups], 1
            )
            q, k, v = parts
            if self.own_norms:
                q, k = normed(q, layer["of_queries"], None, 1e-3), normed(k, layer["of_keys"], None, 1e-3)
            if self.angles is not None:
                q, k = (turned(part, double(self.angles)[at][:, None]) for part in (q, k))
            keys[:, at], values[:, at] = k.transpose(0, 1), v.transpose(0, 1)
            share = self.heads // self.groups
            k, v = (c[:, : begin + n].repeat_interleave(share, 0) for c in (keys, values))
            weights = torch.einsum("qhd,hkd->hqk", q, k) * self.size**-0.5
            mixed = torch.einsum("hqk,hkd->qhd", weights.masked_fill(later, -math.inf).softmax(-1), v)
            x = x + mixed.reshape(n, -1) @ layer["projection"] + biases["projection_bias"]
            u = normed(x, layer["gain_2"], layer["offset_2"], 2e-3) @ layer["up"] + biases["up_bias"]
            gates, inner = u[:, : self.inner], u[:, self.inner :]
            u = F.silu(gates) * inner if self.gated == 1 else F.gelu(gates, approximate="tanh")
            u = u * inner if self.gated == 2 else u
            x = x + u @ layer["down"] + biases["down_bias"]
        return normed(x, double(self.norm[0]), double(self.norm[1]), 1e-3)


def reading(case: Case) -> None:
    """Tokens of some rows read through a trunk, after others that were read before."""
    trunk, rows = Trunk(case), case.draw(1, 5) if case.draw(0, 3) else case.draw(30, 36)
    shape = (rows, trunk.groups, trunk.room, trunk.size)
    caches = [(case.floats(*shape), case.floats(*shape)) for _ in trunk.layers]
    doubles = [(k.double(), v.double()) for k, v in caches]
    lengths = [case.draw(0, trunk.context) if case.draw(0, 1) else 1 for _ in range(rows)]
    lengths[0] = lengths[0] or 1
    begins = [case.draw(0, trunk.context - length) for length in lengths]
    texts = [
        case.ids(*(case.draw(0, trunk.vocabulary - 1) for _ in range(min(n, 4))), *[0] * (n - 4))
        for n in lengths
    ]
    order = sorted(range(rows), key=lambda _: case.draw(0, 99))  # memory's rows need not be in order
    wanted = []
    for row, text, begin in zip(order, texts, begins, strict=True):
        own = [(k[row], v[row]) for k, v in doubles]
        nothing = torch.zeros(trunk.width, dtype=torch.float64)
        wanted.append(trunk.read(text, begin, own)[-1] if len(text) else nothing)
    weights, kept = trunk.weights(caches)
    if case.draw(0, 3) == 0:  # nothing is done with what has no place
        bad = torch.cat(texts).index_fill(0, torch.tensor([0]), trunk.vocabulary)
        before = [k.clone() for k, _ in caches]
        try:
            _step(case, weights, bad, order, begins, lengths)
        except IndexError:
            assert all(torch.equal(k, b) for (k, _), b in zip(caches, before, strict=True))
        else:
            raise AssertionError("a token that is none was read")
    found = _step(case, weights, torch.cat(texts), order, begins, lengths)
    case.agree(found, torch.stack(wanted), 2e-3)
    for ours, theirs in zip(caches, doubles, strict=True):
        for a, b in zip(ours, theirs, strict=True):
            case.agree(a, b, 2e-3)
    assert kept


def _step(
    case: Case, weights: TrunkWeights, tokens: Tensor, order: list[int], begins: list[int], lengths: list[int]
) -> Tensor:
    at = [0, *itertools.accumulate(lengths)][:-1]
    ends = [begin + length for begin, length in zip(begins, lengths, strict=True)]
    given = weights, case.ids(*tokens.tolist()), case.ids(*order), case.ids(*begins)
    ones = set(lengths) == {1} and case.draw(0, 1)
    return case.kernels.step(*given, *(() if ones else (case.ids(*ends), case.ids(*at))))


CALLS = [product, elementwise, norms, rotations, attention, trees, draws, reading]


def call(kernels: Kernels, draw: Draw, guards: Guards) -> None:
    """Call one of the kernels, on one thread or several."""
    threads = draw(1, 3) if kernels.can_share else 1
    kernels.share(threads, threads)
    case = Case(kernels, draw, guards)
    with guards.in_place_of_torch():
        CALLS[draw(0, len(CALLS) - 1)](case)
    guards.check()


if __name__ == "__main__":
    library, rounds, seed = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    compiled = Kernels(ctypes.CDLL(library))
    for number in range(rounds):
        call(compiled, random.Random(seed + number).randint, Unguarded())
    print(f"{rounds} calls")
