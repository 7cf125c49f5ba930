"""Argument parser of subcommands: transformers' parser, with an example in its help and one-line errors."""

import re
from argparse import SUPPRESS, Action, ArgumentDefaultsHelpFormatter, Namespace, RawDescriptionHelpFormatter
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from transformers.hf_argparser import HfArgumentParser

from ..user_input import did_you_mean
from .errors import UsageError


class HelpFormatter(ArgumentDefaultsHelpFormatter, RawDescriptionHelpFormatter):
    """Shows the defaults of options that take a value and have one, and keeps the layout of docstrings."""

    def _get_help_string(self, action: Action) -> str:
        return action.help if action.nargs == 0 or action.default in (None, []) else super()._get_help_string(action)

    def _format_action_invocation(self, action: Action) -> str:
        """Options without their other spelling, with dashes for underscores."""
        if len(action.option_strings) < 2 or action.option_strings[0] == "-h":
            return super()._format_action_invocation(action)
        values = self._format_args(action, self._get_default_metavar_for_optional(action))
        return f"{action.option_strings[0]} {values}".rstrip()


class CommandParser(HfArgumentParser):
    """
    An `HfArgumentParser` for the dataclasses of a subcommand.

    Args:
        dataclass_types: one or more dataclasses.
        docstring: the help, which ends with "Example:" and one or more command lines.
        usage: short usage, without listing options, of which there may be a hundred.
    """

    def __init__(
        self,
        dataclass_types: type | Sequence[type],
        docstring: str,
        usage: str = "%(prog)s [--option value ...]",
    ):
        description, _, example = docstring.partition("Example:")
        super().__init__(
            dataclass_types,  # type: ignore[arg-type]  # its own name for a dataclass fits no class
            description=description.strip(),
            epilog=f"Example:{example.rstrip()}",
            usage=usage,
            formatter_class=HelpFormatter,
            allow_abbrev=False,
        )
        for action in self._actions:
            if action.option_strings[0].startswith("--no_"):  # transformers adds them, with the help of the other
                action.help = f"The same as --{action.dest} false."

    def add_argument(self, *names: str, **options: Any) -> Action:
        """As in `argparse`, but options may be spelled with dashes too, as those of dataclasses."""
        dashed = [name.replace("_", "-") for name in names if name.startswith("--")]
        return super().add_argument(*dict.fromkeys([*names, *dashed]), **options)

    def group_options(self, groups: Mapping[str, Sequence[str]], others: str, hidden: Collection[str] = ()) -> None:
        """
        Show options in groups, and those in none last, with the first sentence of their help. Second names of options
        are not shown.

        Args:
            groups: names of options by the title of their group; those of other versions of transformers are left out.
            others: title of the group of options in none.
            hidden: names of options to leave out.
        """
        actions = self._optionals._group_actions
        for action in actions:
            is_second = action.option_strings[0].startswith("--no_") or str(action.help).startswith("Deprecated")
            if action.dest in hidden or is_second:
                action.help = SUPPRESS
        by_name = {action.dest: action for action in reversed(actions)}
        remaining = [action for action in actions if action.dest not in {"help", *hidden}]
        for title, names in groups.items():
            group = self.add_argument_group(title)
            group._group_actions += [by_name[name] for name in names if name in by_name]
            remaining = [action for action in remaining if action.dest not in names]
        for action in remaining:
            action.help = action.help if action.help == SUPPRESS else re.split(r"(?<=\w\w)\. ", action.help)[0]
        self.add_argument_group(others)._group_actions += remaining
        self._optionals._group_actions = [by_name["help"]]

    def parse_known_args(
        self, args: Sequence[str] | None = None, namespace: Namespace | None = None
    ) -> tuple[Namespace, list[str]]:
        self.check_options(args)
        namespace, unknown = super().parse_known_args(args, namespace)
        if unknown:
            self.error(f"Unexpected argument {unknown[0]!r}.")
        return namespace, unknown

    def check_options(self, args: Sequence[str]) -> None:
        """Report unknown options before argparse reports missing ones, which may just be misspelled."""
        for option in (argument.partition("=")[0] for argument in args):
            if option.startswith("--") and option not in self._option_string_actions:
                self.error(f"There is no option {option}.{did_you_mean(option, self._option_string_actions)}")

    def error(self, message: str) -> None:
        raise UsageError(message)
