"""A calculator for untrusted text: Python's expressions without names, attributes, loops or large values.

It walks the syntax tree itself and computes only what it knows; nothing is ever passed to `eval`. Every
operation is bounded before it is carried out, so that no expression takes long or needs much memory.
"""

from __future__ import annotations

import ast
import math
import operator
import warnings
from collections.abc import Callable, Mapping
from typing import Any

from text_gym.errors import ToolError, excerpt

MAX_CHARACTERS = 1000  # of an expression
MAX_DEPTH = 50  # of nested operations and brackets
MAX_BITS = 4096  # of a whole number: 1,233 digits
MAX_TEXT = 1000  # characters of a string

_BINARY: Mapping[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.Pow: operator.pow,
}
_UNARY: Mapping[type[ast.unaryop], Callable[[Any], Any]] = {
    ast.UAdd: operator.pos,
    ast.USub: operator.neg,
    ast.Not: operator.not_,
}
_COMPARE: Mapping[type[ast.cmpop], Callable[[Any, Any], Any]] = {
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.In: lambda a, b: a in b,
    ast.NotIn: lambda a, b: a not in b,
}
_NAMES: Mapping[str, Any] = {"pi": math.pi, "e": math.e}


def calculate(expression: str) -> str:
    """Return the value of an expression as text, as a pocket calculator would show it.

    Numbers, strings, lists and tuples; `+ - * / // % **`, comparisons, `and`, `or`, `not`, `in`,
    `a if c else b`, indices and slices; `pi`, `e` and the functions abs, ceil, cos, exp, factorial, float,
    floor, gcd, int, len, log, max, min, round, sin, sorted, sqrt, str, sum and tan. A number with a decimal
    point has twelve significant digits.

    Args:
        expression: At most 1,000 characters.

    Raises:
        ToolError: The expression is none, or uses something else, or a value would become too large.

    >>> calculate("(17 + 4) * 2"), calculate("6 / 4"), calculate("0.1 + 0.2")
    ('42', '1.5', '0.3')
    >>> calculate("2 ** 10 ** 9")
    Traceback (most recent call last):
    text_gym.errors.ToolError: a number of more than 4096 bits
    """
    if len(expression) > MAX_CHARACTERS:
        raise ToolError(f"the expression has more than {MAX_CHARACTERS} characters")
    if "\\" in expression:
        raise ToolError("backslashes are not allowed")
    try:
        with warnings.catch_warnings():  # the parser warns of "1if x"
            warnings.simplefilter("ignore")
            tree = ast.parse(expression.strip(), mode="eval")
    except (SyntaxError, ValueError, RecursionError, MemoryError):  # the parser's words differ by version
        raise ToolError(f"{excerpt(expression)} is no expression") from None
    try:
        return _written(_value(tree.body, 0))
    except ToolError:
        raise
    except ZeroDivisionError:
        raise ToolError("division by zero") from None
    except OverflowError:
        raise ToolError("the result is too large") from None
    except RecursionError:
        raise ToolError(f"nested more than {MAX_DEPTH} deep") from None
    except (ArithmeticError, TypeError, ValueError, LookupError) as error:
        raise ToolError(str(error)) from None


def _value(node: ast.expr, depth: int) -> Any:
    """Compute a node of the tree.

    Since there are neither names to assign to nor loops, each node is computed once at most, and a list is
    never longer than the expression.
    """
    if depth > MAX_DEPTH:
        raise ToolError(f"nested more than {MAX_DEPTH} deep")

    def inner(child: ast.expr) -> Any:
        return _value(child, depth + 1)

    match node:
        case ast.Constant(value=value) if type(value) in (int, float, str, bool, type(None)):
            return _bounded(value)
        case ast.Name(id=name) if name in _NAMES:
            return _NAMES[name]
        case ast.BinOp(left=left, op=op, right=right) if type(op) in _BINARY:
            return _apply(op, inner(left), inner(right))
        case ast.UnaryOp(op=op, operand=operand) if type(op) in _UNARY:
            return _UNARY[type(op)](inner(operand))
        case ast.BoolOp(op=op, values=values):
            result = inner(values[0])
            for value in values[1:]:
                if bool(result) is isinstance(op, ast.Or):
                    break
                result = inner(value)
            return result
        case ast.Compare(left=left, ops=ops, comparators=others) if all(type(op) in _COMPARE for op in ops):
            values = [inner(child) for child in (left, *others)]
            pairs = zip(ops, values, values[1:], strict=False)
            return all(_COMPARE[type(op)](a, b) for op, a, b in pairs)
        case ast.IfExp(test=test, body=body, orelse=orelse):
            return inner(body) if inner(test) else inner(orelse)
        case ast.List(elts=elements):
            return [inner(child) for child in elements]
        case ast.Tuple(elts=elements):
            return tuple(inner(child) for child in elements)
        case ast.Subscript(value=value, slice=ast.Slice(lower=lower, upper=upper, step=step)):
            ends = (None if part is None else inner(part) for part in (lower, upper, step))
            return inner(value)[slice(*ends)]
        case ast.Subscript(value=value, slice=index):
            return inner(value)[inner(index)]
        case ast.Call(func=ast.Name(id=name), args=arguments, keywords=[]) if name in _FUNCTIONS:
            return _bounded(_FUNCTIONS[name](*[inner(child) for child in arguments]))
    raise ToolError(f"{excerpt(ast.unparse(node), 40)} is not allowed")


def _apply(op: ast.operator, a: Any, b: Any) -> Any:
    """Compute `a op b`, but refuse first what would be too large."""
    if isinstance(op, ast.Add) and type(a) is type(b) and isinstance(a, (str, list, tuple)):
        return _bounded(a + b)
    if not isinstance(a, (int, float)) or not isinstance(b, (int, float)):
        kinds = f"{type(a).__name__} and {type(b).__name__}"
        raise ToolError(f"{kinds} cannot be combined so")
    if isinstance(op, ast.Pow) and isinstance(a, int) and abs(a) > 1 and a.bit_length() * b > 2 * MAX_BITS:
        raise ToolError(f"a number of more than {MAX_BITS} bits")
    return _bounded(_BINARY[type(op)](a, b))


def _bounded(value: Any) -> Any:
    """Return a value, unless it is too large, infinite or complex."""
    if isinstance(value, int) and value.bit_length() > MAX_BITS:
        raise ToolError(f"a number of more than {MAX_BITS} bits")
    if isinstance(value, str) and len(value) > MAX_TEXT:
        raise ToolError(f"a text of more than {MAX_TEXT} characters")
    if isinstance(value, complex) or (isinstance(value, float) and not math.isfinite(value)):
        raise ToolError("the result is no finite real number")
    return value


def _written(value: Any) -> str:
    """Write a value as text."""
    text = f"{value:.12g}" if isinstance(value, float) else str(value)
    if len(text) > 2 * MAX_CHARACTERS:
        raise ToolError(f"a result of more than {2 * MAX_CHARACTERS} characters")
    return text


def _factorial(n: int) -> int:
    if n > 400:
        raise ToolError(f"a number of more than {MAX_BITS} bits")
    return math.factorial(n)


def _rounded(number: float, digits: int = 0) -> float:
    if abs(digits) > 300:
        raise ToolError("round takes at most 300 digits")
    return round(number, digits) if digits else round(number)


def _sum(numbers: Any) -> Any:
    if not all(isinstance(number, (int, float)) for number in numbers):
        raise ToolError("sum takes numbers")
    return sum(numbers)


_FUNCTIONS: Mapping[str, Callable[..., Any]] = {
    "abs": abs,
    "ceil": math.ceil,
    "cos": math.cos,
    "exp": math.exp,
    "factorial": _factorial,
    "float": float,
    "floor": math.floor,
    "gcd": math.gcd,
    "int": int,
    "len": len,
    "log": math.log,
    "max": max,
    "min": min,
    "round": _rounded,
    "sin": math.sin,
    "sorted": sorted,
    "sqrt": math.sqrt,
    "str": _written,
    "sum": _sum,
    "tan": math.tan,
}
