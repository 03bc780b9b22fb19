"""Elementwise torch code as straight-line code."""

import math

import pytest
import torch

from sunpy_specfit.numerics.recorded import Level, Record


@pytest.fixture
def record():
    return Record(torch.float64)


def evaluated(record, symbol, **inputs):
    """What a symbol's statements give: they are arithmetic in Python as well."""
    names = {"real": float, "cosine": math.cos, "sine": math.sin, "root": math.sqrt, **inputs}
    for level in Level:
        for name, text in record.statements[level]:
            names[name] = eval(text, names)
    return eval(symbol.name, names)


FUNCTIONS = {
    "arithmetic": lambda a, b: (1 - a) * 2 / b - (-a) + 3 * b - b / 4 + (0.5 + a),
    "functions": lambda a, b: torch.cos(a) * torch.sin(b) + b.sqrt() + torch.reciprocal(b) + a.square() + a**2,
    "scaled sums": lambda a, b: torch.add(a, b, alpha=3.0) * torch.sub(b, a, alpha=0.5) + torch.rsub(a, b),
    "products": lambda a, b: (
        torch.addcmul(a, a, b) + torch.addcmul(a, a, b, value=-1) + torch.addcmul(b, a, b, value=2)
    ),
    "zeros": lambda a, b: torch.zeros_like(a) * a + b + torch.zeros_like(a) + torch.ones_like(a) * a,
    "nothing less": lambda a, b: torch.zeros_like(a) - b + torch.addcmul(torch.zeros_like(a), a, b, value=-1),
    "tensors that are numbers": lambda a, b: torch.addcmul(torch.tensor(3.0), a, b) + torch.tensor(2.0).double() * a,
    "numbers": lambda a, b: (torch.ones_like(a) + 2) * 3 - torch.ones_like(b) / 2 + (-torch.ones_like(a)) + a,
    "in place": lambda a, b: (a * b).mul_(2.0).add_(a).neg_() + (a + b).reciprocal_(),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_statements_give_what_torch_gives(record, name):
    a, b = 0.7, 1.9
    function = FUNCTIONS[name]
    found = function(record.symbol("a", Level.PIXEL), record.symbol("b", Level.SAMPLE))
    expected = function(torch.tensor(a, dtype=torch.float64), torch.tensor(b, dtype=torch.float64))
    assert evaluated(record, found, a=a, b=b) == pytest.approx(float(expected), rel=1e-14)


def test_operations_in_place_change_one_symbol_only(record):
    a = record.symbol("a", Level.PIXEL)
    first, second, same = a + 1, a + 1, a * 1
    first.mul_(3.0)
    same.mul_(5.0)
    assert evaluated(record, first, a=2.0) == 9.0
    assert evaluated(record, second, a=2.0) == 3.0
    assert evaluated(record, same, a=2.0) == 10.0
    assert a.name == "a"


def test_what_is_said_twice_is_worked_out_once(record):
    a, b = record.symbol("a", Level.PIXEL), record.symbol("b", Level.SAMPLE)
    assert (a * b).name == (a * b).name
    assert len(record.statements[Level.SAMPLE]) == 1


def test_every_statement_stands_where_it_is_needed_least_often(record):
    n, a, b = (record.symbol(name, level) for name, level in zip("nab", Level, strict=True))
    n * n, n * a, a + b * n
    assert [len(record.statements[level]) for level in Level] == [1, 1, 2]


def test_what_is_always_zero_leaves_no_statement(record):
    a = record.symbol("a", Level.SAMPLE)
    assert (torch.zeros_like(a) * a).value == 0
    assert not record.statements[Level.SAMPLE]


def test_what_cannot_be_recorded_is_told(record):
    a = record.symbol("a", Level.SAMPLE)
    with pytest.raises(NotImplementedError, match="torch's erf cannot be recorded"):
        torch.erf(a)
    with pytest.raises(NotImplementedError, match="torch's cumsum cannot be recorded"):
        a.cumsum(0)
    with pytest.raises(NotImplementedError, match="a power of 3"):
        a**3
