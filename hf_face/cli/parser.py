"""Argument parser of subcommands: transformers' parser, with an example in its help and one-line errors."""

from argparse import Action, ArgumentDefaultsHelpFormatter, Namespace, RawDescriptionHelpFormatter
from collections.abc import Sequence

from transformers.hf_argparser import HfArgumentParser

from ..user_input import did_you_mean
from .errors import UsageError


class HelpFormatter(ArgumentDefaultsHelpFormatter, RawDescriptionHelpFormatter):
    """Shows defaults of options that have one, and keeps the layout of docstrings."""

    def _get_help_string(self, action: Action) -> str:
        return action.help if action.default in (None, []) else super()._get_help_string(action)


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
