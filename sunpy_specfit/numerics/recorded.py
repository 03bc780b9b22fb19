"""Elementwise torch code recorded as straight-line code: the formula stays where it is, in torch.

A function is called with `Symbol` in the place of tensors. Each torch operation on them adds a statement to a `Record`
and returns another symbol, so that what comes out in the end is a list of statements without a loop or an array, which
`sunpy_specfit.numerics.kernel` makes compiled code of.
"""

from __future__ import annotations

import enum
from collections.abc import Callable

import torch

__all__ = ["Level", "Record", "Symbol"]


class Level(enum.IntEnum):
    """How often something must be worked out: once, once a pixel, or for every sample of every pixel."""

    NUMBER = 0
    PIXEL = 1
    SAMPLE = 2


class Record:
    """Statements in the order in which they were recorded, by level, each once.

    Parameters
    ----------
    dtype : `torch.dtype`
        What the symbols say theirs is.

    Examples
    --------
    >>> import torch
    >>> from sunpy_specfit.numerics.recorded import Level, Record
    >>> record = Record(torch.float32)
    >>> x, a = record.symbol("x", Level.SAMPLE), record.symbol("a", Level.PIXEL)
    >>> result = torch.addcmul(x, a * a, x)
    >>> record.statements[Level.PIXEL], record.statements[Level.SAMPLE]
    ([('t0', '(a * a)')], [('t1', '(x + t0 * x)')])
    """

    def __init__(self, dtype: torch.dtype):
        self.dtype = dtype
        self.statements: dict[Level, list[tuple[str, str]]] = {level: [] for level in Level}
        self._known: dict[str, tuple[str, Level]] = {}

    def symbol(self, name: str, level: Level) -> Symbol:
        """An input."""
        return Symbol(self, name, level)

    def constant(self, value: float) -> Symbol:
        """A number."""
        return Symbol(self, f"real({float(value)!r})", Level.NUMBER, float(value))

    def add(self, text: str, *operands: Symbol) -> Symbol:
        """What a statement gives; the same one as before if it was recorded already."""
        if text not in self._known:
            level = max(operand.level for operand in operands)
            self._known[text] = f"t{len(self._known)}", level
            self.statements[level].append((self._known[text][0], text))
        return Symbol(self, *self._known[text])


class Symbol:
    """What stands for a tensor while a function is recorded; ``value`` is known of a constant."""

    def __init__(self, record: Record, name: str, level: Level, value: float | None = None):
        self.record, self.name, self.level, self.value = record, name, level, value
        self.dtype, self.device = record.dtype, torch.device("cpu")

    @classmethod
    def __torch_function__(cls, function, types, args=(), kwargs=None):
        return _operation(function.__name__)(*args, **(kwargs or {}))

    def copy(self) -> Symbol:
        """The same in another object, for operations in place to change."""
        return Symbol(self.record, self.name, self.level, self.value)

    def __getattr__(self, name: str) -> Callable:
        """Methods of tensors; one whose name ends in an underscore changes the symbol, as it would a tensor."""
        if name.startswith("__"):
            raise AttributeError(name)
        operation = _operation(name)

        def method(*args, **kwargs):
            result = operation(self, *args, **kwargs)
            if name.endswith("_"):
                self.name, self.level, self.value = result.name, result.level, result.value
                return self
            return result

        return method

    def __neg__(self):
        return _neg(self)

    def __add__(self, other):
        return _add(self, other)

    def __sub__(self, other):
        return _sub(self, other)

    def __rsub__(self, other):
        return _sub(other, self)

    def __mul__(self, other):
        return _mul(self, other)

    def __truediv__(self, other):
        return _div(self, other)

    def __rtruediv__(self, other):
        return _div(other, self)

    def __pow__(self, exponent):
        return _pow(self, exponent)

    __radd__, __rmul__ = __add__, __mul__


def _operation(name: str) -> Callable:
    try:
        return _OPERATIONS[name.strip("_")]
    except KeyError:
        raise NotImplementedError(f"torch's {name} cannot be recorded") from None


def _together(*operands) -> tuple[Symbol, ...]:
    """All of them as symbols."""
    record = next(operand.record for operand in operands if isinstance(operand, Symbol))
    return tuple(operand if isinstance(operand, Symbol) else record.constant(operand) for operand in operands)


def _neg(a):
    return a.record.constant(-a.value) if a.value is not None else a.record.add(f"(-{a.name})", a)


def _add(a, b, *, alpha=1):
    a, b = _together(a, b)
    if alpha != 1:
        return _addcmul(a, a.record.constant(alpha), b)
    if a.value is not None and b.value is not None:
        return a.record.constant(a.value + b.value)
    if a.value == 0 or b.value == 0:
        return (b if a.value == 0 else a).copy()
    return a.record.add(f"({a.name} + {b.name})", a, b)


def _sub(a, b, *, alpha=1):
    a, b = _together(a, b)
    if alpha != 1:
        return _addcmul(a, a.record.constant(-alpha), b)
    if a.value is not None and b.value is not None:
        return a.record.constant(a.value - b.value)
    if a.value == 0 or b.value == 0:
        return _neg(b) if a.value == 0 else a.copy()
    return a.record.add(f"({a.name} - {b.name})", a, b)


def _mul(a, b):
    a, b = _together(a, b)
    if a.value is not None and b.value is not None:
        return a.record.constant(a.value * b.value)
    for one, other in ((a, b), (b, a)):
        if one.value in (0, 1):
            return (other if one.value else one).copy()
    return a.record.add(f"({a.name} * {b.name})", a, b)


def _div(a, b):
    a, b = _together(a, b)
    if b.value is not None:
        return _mul(a, 1.0 / b.value)
    return a.copy() if a.value == 0 else a.record.add(f"({a.name} / {b.name})", a, b)


def _addcmul(a, b, c, *, value=1):
    """One statement for what processors do in one."""
    a, b, c = _together(a, b, c)
    if abs(value) != 1:
        b, value = _mul(b, value), 1
    if b.value is not None and c.value is not None or 0 in (a.value, b.value, c.value):
        return _add(a, _mul(b, c)) if value == 1 else _sub(a, _mul(b, c))
    return a.record.add(f"({a.name} {'+' if value == 1 else '-'} {b.name} * {c.name})", a, b, c)


def _pow(a, exponent):
    if exponent != 2:
        raise NotImplementedError(f"a power of {exponent} cannot be recorded, only squares")
    return _mul(a, a)


def _call(name: str) -> Callable:
    return lambda a: a.record.add(f"{name}({a.name})", a)


_OPERATIONS: dict[str, Callable] = {
    "neg": _neg,
    "add": _add,
    "radd": _add,
    "sub": _sub,
    "rsub": lambda a, b: _sub(b, a),
    "mul": _mul,
    "rmul": _mul,
    "div": _div,
    "addcmul": _addcmul,
    "pow": _pow,
    "square": lambda a: _mul(a, a),
    "reciprocal": lambda a: _div(1.0, a),
    "cos": _call("cosine"),
    "sin": _call("sine"),
    "sqrt": _call("root"),
    "zeros_like": lambda a: a.record.constant(0.0),
    "ones_like": lambda a: a.record.constant(1.0),
}
