"""A lab in the sandbox behaves as the module does: values, gradients, errors; its answers are only data."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from course.checks import close, gradient
from course.remote import RemoteLab
from course.wire import decode, encode
from text_gym.utils.confinement import unavailable

SOURCE = """
import torch
def loss(x, y, scale=1.0):
    return scale * (x.exp() * y).sum()
def both(x):
    return x ** 2, x.detach() + 1, "text"
def constant(x):
    return torch.ones(2) @ torch.ones(2)
def table(rows):
    return {tuple(row): len(row) for row in rows}
def wrong():
    raise ValueError("no such thing")
def strange():
    return object()
"""


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    if unavailable():
        pytest.skip("the sandbox is not whole here")
    file = tmp_path_factory.mktemp("lab") / "lab.py"
    file.write_text(SOURCE, encoding="utf-8")
    remote = RemoteLab(file)
    yield remote
    remote.close()


def test_gradients_come_back_through_the_sandbox(lab: Any) -> None:
    x = torch.tensor([0.5, -1.0], dtype=torch.float64, requires_grad=True)
    y = torch.tensor([2.0, 3.0], dtype=torch.float64, requires_grad=True)
    found = lab.loss(x, y, scale=2.0)
    (3 * found).backward()
    assert found.detach().item() == pytest.approx(2 * float((x.exp() * y).sum().detach()))
    torch.testing.assert_close(x.grad, (6 * x.exp() * y).detach())
    torch.testing.assert_close(y.grad, (6 * x.exp()).detach())


def test_tuples_of_which_a_part_has_a_gradient(lab: Any) -> None:
    x = torch.tensor([1.0, 2.0], requires_grad=True)
    square, plain, text = lab.both(x)
    assert (square.requires_grad, plain.requires_grad, text) == (True, False, "text")
    square.sum().backward()
    assert x.grad is not None
    assert x.grad.tolist() == [2.0, 4.0]
    with pytest.raises(AssertionError, match="cut the graph"):
        gradient(lab.constant(x), x, "your number")


def test_data_and_errors(lab: Any) -> None:
    assert lab.table([(1, 2), ()]) == {(1, 2): 2, (): 0}
    for call, said in [
        (lab.wrong, "your lab.py raised ValueError: no such thing"),
        (lab.strange, "a object is neither a number"),
        (lab.missing, "there is no function missing"),
    ]:
        with pytest.raises(pytest.fail.Exception, match=said):
            call()


def test_nothing_handed_in_says_so() -> None:
    with pytest.raises(pytest.fail.Exception, match="nobody"):
        RemoteLab(None, "nobody handed in").f()


# wire

PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63) + 1, 2**63 - 1) | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.tuples(inner, inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)


@given(PLAIN)
@settings(max_examples=50, deadline=None)
def test_data_arrives_as_it_was(value: Any) -> None:
    assert decode(encode(value)) == value


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.int64, np.bool_])
def test_arrays_arrive_as_they_were(dtype: type) -> None:
    array: Any = np.arange(6).reshape(2, 3).astype(dtype)
    for value in (array, np.zeros((0, 2)), np.array(1.5), np.array([np.nan, np.inf])):
        found = decode(encode(value))
        assert found.dtype == value.dtype
        np.testing.assert_array_equal(found, value)
    tensor = decode(encode(torch.from_numpy(array)))
    assert isinstance(tensor, torch.Tensor)
    assert tensor.tolist() == array.tolist()


@pytest.mark.parametrize(
    "data",
    [
        {"array": {"dtype": "object", "shape": [1], "numbers": [1]}},
        {"array": {"dtype": "float64", "shape": [1 << 60], "numbers": [1.0]}},
        {"array": {"dtype": "float64", "shape": [-1], "numbers": [1.0]}},
        {"array": {"dtype": "float64", "shape": [True], "numbers": [1.0]}},
        {"array": {"dtype": "float64", "shape": [1], "numbers": ["1"]}},
        {"array": {"dtype": "int64", "shape": [1], "numbers": [1 << 70]}},
        {"map": [[[], 1]]},
        {"map": [[{"list": []}, 1]]},
        {"map": 1},
        {"pickle": "x"},
        [1],
        1 << 64,
    ],
)
def test_answers_of_another_form_are_refused(data: Any) -> None:
    with pytest.raises(ValueError, match=r"."):
        decode(data)
    deep: Any = 1
    for _ in range(30):
        deep = {"list": [deep]}
    with pytest.raises(ValueError, match="too deep"):
        decode(deep)


# checks


def test_a_known_mistake_is_named_and_others_are_shown() -> None:
    close(torch.tensor([1.0, 2.0]), [1.0, 2.0], "your numbers")
    mistakes = {"you forgot the sign": [-1.0, -2.0]}
    for found, said in [
        ([-1.0, -2.0], r"your numbers: you forgot the sign \(at \[1\] it is -2; right is 2\)"),
        ([1.0, 3.0], r"at \[1\] it is 3; right is 2; think"),
        ([1.0], r"shape \(1,\); it must have shape \(2,\)"),
        ([1.0, float("nan")], r"not finite; right is 2"),
        (None, "None: is there a return"),
        ("12", "of type str"),
        ([[1.0], [2.0, 3.0]], "it must be numbers"),
    ]:
        with pytest.raises(AssertionError, match=said):
            close(found, [1.0, 2.0], "your numbers", mistakes=mistakes, hint="think")


def test_what_has_no_gradient_is_explained() -> None:
    x = torch.ones(2, requires_grad=True)
    for value, said in [(1.0, "of type float"), (x, "of shape"), (x.detach().sum(), "cut the graph")]:
        with pytest.raises(AssertionError, match=said):
            gradient(value, x, "your loss")
    with pytest.raises(AssertionError, match="does not depend"):
        gradient(torch.ones(2, requires_grad=True).sum(), x, "your loss")
