"""The countdown task: reach a target with + - * / and each given number exactly once."""

from __future__ import annotations

import ast
import operator
import re
from collections.abc import Iterable
from fractions import Fraction

_ALLOWED = re.compile(r"[\d+\-*/() ]+")
_LONGEST = 200
_OPERATORS = {ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv}


def solves_countdown(equation: str, numbers: Iterable[int], target: float) -> bool:
    """True if ``equation`` (the part before any ``=``) uses each number exactly once and equals ``target``.

    Only digits, ``+ - * / ( )`` and blanks are allowed. Any other text gives False and never an error. Arithmetic is
    exact.
    """
    expression = equation.split("=")[0].strip()
    if len(expression) > _LONGEST or not _ALLOWED.fullmatch(expression):
        return False
    if sorted(int(number) for number in re.findall(r"\d+", expression)) != sorted(int(number) for number in numbers):
        return False
    try:
        return _value(ast.parse(expression, mode="eval").body) == Fraction(target)
    except (SyntaxError, ValueError, ZeroDivisionError):
        return False


def _value(node: ast.expr) -> Fraction:
    if isinstance(node, ast.Constant):
        return Fraction(node.value)
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        return -_value(node.operand)
    if isinstance(node, ast.BinOp) and type(node.op) in _OPERATORS:
        return _OPERATORS[type(node.op)](_value(node.left), _value(node.right))
    raise ValueError("only + - * / are allowed")
