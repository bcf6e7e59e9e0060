"""Retry delays in QStash's grammar, such as "pow(2, retried) * 1000", in milliseconds; parsed, never executed."""

import ast
import math
from collections.abc import Callable
from functools import lru_cache
from typing import Never, TypeAlias

from batchflow.errors import ConfigurationError

MAX_LENGTH = 200
"""The length limit of an expression, in characters."""

_LETTERS = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ_")
_DIGITS = frozenset("0123456789.")
_SIGNS = frozenset("+-*/(), ")
_ALLOWED = _LETTERS | _DIGITS | _SIGNS
_WORDS = str.maketrans(dict.fromkeys(_SIGNS, " "))
_MAX_CHECKED = 100  # nobody waits for more retries, and `retries` may be a billion
_MAX_EXACT = 2**53  # beyond it a float counts no longer by ones, and in the end it cannot hold the number

_Term: TypeAlias = Callable[[float], float]


def check(text: str, retries: int) -> str:
    """Check that the expression gives a wait for `retried` = 0 to `retries`; returns it with normalized spaces.

    It has numbers, `+ - * /`, parentheses, the variable `retried` and the functions abs, ceil, exp, floor, max, min,
    pow, round and sqrt. It is evaluated in floats, as in QStash; halves are rounded away from 0. Of more than 100
    retries the first 100 and the last are evaluated.

    Raises:
        ConfigurationError: it is not such an expression, or for one of these retries it divides by zero, is negative,
            infinite or NaN; the message names the problem and its place.
    """
    text = " ".join(text.split())
    _check(text, retries)
    return text


def evaluate(text: str, retried: int) -> float:
    """The milliseconds after this many retries; they may be negative, infinite or NaN."""
    try:
        return _parse(text)(float(min(retried, _MAX_EXACT)))
    except ZeroDivisionError:
        return math.nan


@lru_cache(maxsize=256)
def _check(text: str, retries: int) -> None:
    term = _parse(text)
    for retried in (*range(min(retries, _MAX_CHECKED)), retries):
        _check_wait(text, term, retried)


def _check_wait(text: str, term: _Term, retried: int) -> None:
    try:
        wait = term(float(min(retried, _MAX_EXACT)))
    except ZeroDivisionError:
        _reject(text, f"divides by zero for retried = {retried}")
    if math.isnan(wait):
        _reject(text, f"is not a number for retried = {retried}")
    if wait < 0:
        _reject(text, f"is negative for retried = {retried}; put max(0, …) around it")
    if math.isinf(wait):
        _reject(text, f"is infinite for retried = {retried}; put min(…, …) around what grows")


def _reject(text: str, fault: str) -> Never:
    raise ConfigurationError(f"the retry delay {text!r} {fault}")


# Reading


@lru_cache(maxsize=256)
def _parse(text: str) -> _Term:
    if len(text) > MAX_LENGTH:
        raise ConfigurationError(f"the retry delay is {len(text)} characters long; at most {MAX_LENGTH} are read")
    for character in text:
        if character not in _ALLOWED:
            _reject(text, f"has {character!r} in it; there are numbers, + - * /, parentheses, retried and functions")
    for word in text.translate(_WORDS).split():
        # Python reads 1e3, 0x10 and 1_000; QStash need not.
        if word[0] in _DIGITS and not _DIGITS.issuperset(word):
            _reject(text, f"has {word!r} in it; write a number of milliseconds in digits, such as 1500 or 0.5")
    try:
        tree = ast.parse(text, mode="eval")
    except (SyntaxError, MemoryError, RecursionError):
        _reject(text, "is not well-formed; write one such as 'pow(2, retried) * 1000'")
    return _term(tree.body, text)


def _term(node: ast.expr, text: str) -> _Term:
    match node:
        case ast.Constant(value=int() | float() as number) if not isinstance(number, bool):
            value = float(number)
            return lambda _: value
        case ast.Name(id="retried"):
            return lambda retried: retried
        case ast.Name(id=name) if name in _FUNCTIONS:
            _reject(text, f"names the function '{name}' without calling it")
        case ast.Name(id=name):
            _reject(text, f"has the unknown name '{name}'; the only one is 'retried'")
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            negated = _term(operand, text)
            return lambda retried: -negated(retried)
        case ast.BinOp(left=left, op=op, right=right):
            return _operation(op, _term(left, text), _term(right, text), text)
        case ast.Call(func=ast.Name(id=name), args=arguments, keywords=[]):
            return _call(name, [_term(argument, text) for argument in arguments], text)
        case _:
            _reject(text, "is not well-formed; write one such as 'pow(2, retried) * 1000'")


def _operation(op: ast.operator, left: _Term, right: _Term, text: str) -> _Term:
    match op:
        case ast.Add():
            return lambda retried: left(retried) + right(retried)
        case ast.Sub():
            return lambda retried: left(retried) - right(retried)
        case ast.Mult():
            return lambda retried: left(retried) * right(retried)
        case ast.Div():
            return lambda retried: left(retried) / right(retried)
        case ast.Pow():
            _reject(text, "has '**' in it; write pow(…, …)")
        case _:
            _reject(text, "has '//' in it; write floor(… / …)")


def _call(name: str, arguments: list[_Term], text: str) -> _Term:
    if name not in _FUNCTIONS:
        _reject(text, f"has the unknown function '{name}'; there are {', '.join(sorted(_FUNCTIONS))}")
    least, most, function = _FUNCTIONS[name]
    if not least <= len(arguments) <= most:
        takes = f"{least} argument{'' if least == 1 else 's'}{'' if least == most else ' or more'}"
        _reject(text, f"calls '{name}' with {len(arguments)}; it takes {takes}")
    return lambda retried: function(*[argument(retried) for argument in arguments])


# The functions, with infinity where Python raises OverflowError and NaN where it raises ValueError


def _pow(base: float, exponent: float) -> float:
    try:
        return math.pow(base, exponent)
    except OverflowError:
        return -math.inf if base < 0 and exponent % 2 == 1 else math.inf
    except ValueError:
        return math.nan if base else math.inf


def _exp(exponent: float) -> float:
    try:
        return math.exp(exponent)
    except OverflowError:
        return math.inf


def _sqrt(value: float) -> float:
    return math.nan if value < 0 else math.sqrt(value)


def _floor(value: float) -> float:
    return float(math.floor(value)) if math.isfinite(value) else value


def _ceil(value: float) -> float:
    return float(math.ceil(value)) if math.isfinite(value) else value


def _round(value: float) -> float:
    whole = _floor(abs(value))
    # Not floor(value + 0.5): that addition rounds 0.49999999999999994 up.
    return math.copysign(whole + 1 if abs(value) - whole >= 0.5 else whole, value)


def _min(*values: float) -> float:
    return math.nan if any(map(math.isnan, values)) else min(values)


def _max(*values: float) -> float:
    return math.nan if any(map(math.isnan, values)) else max(values)


_FUNCTIONS: dict[str, tuple[int, int, Callable[..., float]]] = {
    "abs": (1, 1, math.fabs),
    "ceil": (1, 1, _ceil),
    "exp": (1, 1, _exp),
    "floor": (1, 1, _floor),
    "max": (2, MAX_LENGTH, _max),
    "min": (2, MAX_LENGTH, _min),
    "pow": (2, 2, _pow),
    "round": (1, 1, _round),
    "sqrt": (1, 1, _sqrt),
}
