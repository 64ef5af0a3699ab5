"""Command-line flags from dataclasses, built on ``HfArgumentParser``.

Flags cannot be abbreviated. Every mistake is reported in one line, and for an unknown flag that line names the nearest
known one.
"""

from __future__ import annotations

import argparse
import copy
import difflib
import sys
from collections.abc import Collection, Mapping, Sequence
from dataclasses import Field, dataclass, fields
from typing import Any, NoReturn

from transformers import HfArgumentParser
from transformers.hf_argparser import string_to_bool

from swift.utils.decisive import DECIDES
from swift.utils.errors import UserError
from swift.utils.flag_limits import check_flags, one_complaint
from swift.utils.logger import get_logger

_NO_EFFECT = "no_effect_"
_METAVARS = {int: "INT", float: "NUMBER", str: "TEXT", string_to_bool: "true|false"}


@dataclass(frozen=True)
class ForeignFlag:
    """A flag of another program that is known here without being carried out.

    ``reason`` says what it means here. ``harmless`` holds values, in lower case, that ask for what happens anyway; they
    pass without a word. Other values are warned of, or refused if ``refused``.
    """

    reason: str
    harmless: frozenset[str] = frozenset()
    refused: bool = False


class _Help(argparse.HelpFormatter):
    def __init__(self, prog: str):
        super().__init__(prog, max_help_position=40, width=120)

    def _get_help_string(self, action: argparse.Action) -> str | None:
        silent = not action.option_strings or action.default in (None, [], argparse.SUPPRESS)
        return action.help if silent else f"{action.help} ({getattr(action.default, 'value', action.default)})"


class FlagParser(HfArgumentParser):
    """Parses flags into dataclasses. ``--some-flag`` and ``--some_flag`` are the same. A boolean flag needs no value.

    Args:
        dataclass_types: one per group of flags; ``_argument_group_name`` heads the group in ``--help``.
        hidden: names of fields that ``--help`` leaves out.
        foreign: flags by name that are accepted with any values and do nothing, or are refused. One warning names those
            on the command line. A field of the same name comes first.
    """

    def __init__(
        self,
        dataclass_types: Sequence[type],
        *,
        prog: str,
        description: str,
        hidden: Collection[str] = (),
        foreign: Mapping[str, ForeignFlag] | None = None,
    ):
        super().__init__(
            dataclass_types,
            prog=prog,
            description=description,
            usage="%(prog)s --flag value ...",
            formatter_class=_Help,
            allow_abbrev=False,
        )
        for action in self._actions:
            action.option_strings = [name for name in action.option_strings if "-" not in name[2:]]
            if action.dest in hidden or action.help is None or action.option_strings[0].startswith("--no_"):
                action.help = argparse.SUPPRESS
            if action.type is string_to_bool:
                action.nargs, action.const = "?", True
            elif action.nargs == "+":
                action.nargs = "*"
            many = action.choices and len(action.choices) > 6
            if many or not action.choices:
                action.metavar = "NAME" if many else _METAVARS.get(action.type)
        own = {name for action in self._actions for name in action.option_strings}
        self.foreign = {name: flag for name, flag in (foreign or {}).items() if f"--{name}" not in own}
        for name in self.foreign:
            self.add_argument(
                f"--{name}", dest=_NO_EFFECT + name, nargs="*", default=argparse.SUPPRESS, help=argparse.SUPPRESS
            )

    @staticmethod
    def _parse_dataclass_field(parser: argparse.ArgumentParser, field: Field) -> None:
        """Add the flag of a field; metadata that says what the flag decides is not argparse's."""
        plain = copy.copy(field)
        plain.metadata = {key: value for key, value in field.metadata.items() if key != DECIDES}
        HfArgumentParser._parse_dataclass_field(parser, plain)

    def parse(self, argv: Sequence[str] | None = None) -> tuple[Any, ...]:
        """One object per dataclass, from ``argv`` (default: the process's own). Raises UserError."""
        argv = [_in_snake_case(word) for word in (sys.argv[1:] if argv is None else argv)]
        self._refuse_unknown(argv)
        namespace, stray = self.parse_known_args(argv)
        if stray:
            raise UserError(
                f"unexpected value {stray[0]!r} on the command line; give it a flag, or quote it with its flag's value"
            )
        values = vars(namespace)
        self._judge({name.removeprefix(_NO_EFFECT): values[name] for name in values if name.startswith(_NO_EFFECT)})
        check_flags(values)
        return tuple(_build(kind, values) for kind in self.dataclass_types)

    def _judge(self, given: Mapping[str, Sequence[str]]) -> None:
        """Warn of foreign flags, given with their words, that ask for what does not happen, or refuse them."""
        warned: dict[str, list[str]] = {}
        for name, words in given.items():
            flag, value = self.foreign[name], " ".join(words)
            is_switch = bool({"true", "false"} & flag.harmless)
            if (value.lower() or ("true" if is_switch else "")) in flag.harmless:
                continue
            if flag.refused and (words or is_switch):
                raise UserError(f"--{name} {value}".rstrip() + f" is not supported: {flag.reason}")
            if not flag.refused:
                warned.setdefault(flag.reason, []).append(f"--{name}")
        if warned:
            reasons = ", ".join(f"{', '.join(names)} ({reason})" for reason, names in warned.items())
            get_logger().warning("accepted without effect: %s", reasons)

    def error(self, message: str) -> NoReturn:
        """Raise argparse's complaint as a UserError: one line that names the flag once."""
        raise UserError(one_complaint(message))

    def _refuse_unknown(self, argv: Sequence[str]) -> None:
        known = [option for option in self._option_string_actions if option.startswith("--")]
        for word in argv:
            flag = word.split("=")[0]
            if flag.startswith("--") and flag not in known:
                near = difflib.get_close_matches(flag, known, n=1, cutoff=0)
                raise UserError(f"unknown flag {flag}; the nearest known one is {near[0]}, and --help lists them")


def _build(kind: type, values: Mapping[str, Any]) -> Any:
    try:
        return kind(**{field.name: values[field.name] for field in fields(kind) if field.name in values})
    except UserError:
        raise
    except (ValueError, TypeError, OSError) as error:
        raise UserError(f"the flags do not go together: {' '.join(str(error).split())}") from error


def _in_snake_case(word: str) -> str:
    if not word.startswith("--"):
        return word
    flag, equals, value = word.partition("=")
    return "--" + flag[2:].replace("-", "_") + equals + value
