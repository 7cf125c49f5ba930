"""
Builds evaluators from the protocols named in recipes (`eval_data:`) and on command lines.

    load_protocol("lfw.bin")                                         # verification pairs
    load_protocol({"lfw": {"data": "faces_emore"}})                  # a registered protocol with options
    load_protocol({"ijb": {"data": "IJBC", "switches": ["N1D1F1", "N0D0F0"], "name": "mine"}})
"""

import inspect
import textwrap
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, cast

from ..registry import Spec, parse_spec, protocols
from ..user_input import FILE_SUFFIXES, parse_yaml
from .evaluator import Evaluator

HELP_WIDTH = 112
INDENT = "      "


def load_protocol(spec: Spec) -> list[Evaluator]:
    """
    Build the evaluators of one protocol with its data. Most protocols have one; IJB has one per value of `switches`.

    Args:
        spec (`str` or `dict`):
            `{name: {option: value}}` with a registered name and the options of that class's `load`, or only the data
            of `verification`. Every protocol has the option `name`, the prefix of its metrics.

    Raises:
        FileNotFoundError: if the data does not exist.
        ValueError: if the name or an option is unknown, or a required option is missing.
    """
    name, options = parse_protocol(spec)
    entry = protocols[name]
    options = _as_in_python({**entry.presets, **options})
    protocol: Any = entry.target
    signature = _signature(protocol)
    own_name = None if "name" in signature.parameters else options.pop("name", None)
    try:
        signature.bind(**options)
    except TypeError as error:
        raise ValueError(f"The protocol {name!r}: {error}; its options are: {', '.join(options_of(name))}.") from None
    evaluators = protocol.load(**options)
    if own_name is not None:
        for evaluator in evaluators:
            evaluator.name = own_name if len(evaluators) == 1 else f"{own_name}_{evaluator.name}"
    return evaluators


def load_protocols(specs: Sequence[Spec]) -> list[Evaluator]:
    """
    Build the evaluators of several protocols that run together.

    Raises:
        ValueError: as for [`load_protocol`], and if two evaluators have the same name.
    """
    evaluators = [evaluator for spec in specs for evaluator in load_protocol(spec)]
    check_names(evaluators)
    return evaluators


def check_names(evaluators: Sequence[Evaluator]) -> None:
    """
    Raises:
        ValueError: if two evaluators have the same name, and would log the same keys.
    """
    for name, count in Counter(evaluator.name for evaluator in evaluators).items():
        if count > 1:
            raise ValueError(
                f"{count} protocols of this run are called {name!r}. Give them different names, for example "
                f"{{verification: {{data: ..., name: {name}_2}}}}."
            )


def parse_protocol(spec: Spec) -> tuple[str, dict[str, Any]]:
    """Parse the name and options of a protocol; a path or Hub name is the data of `verification`."""
    name, options = parse_spec(spec, protocols.kind)
    is_data = "/" in name or name.endswith(FILE_SUFFIXES) or Path(name).exists()
    if isinstance(spec, str) and name not in protocols and is_data:
        return "verification", {"data": name}
    return name, options


def options_of(name: str) -> list[str]:
    """The options of a protocol; all protocols have `name`."""
    return list(dict.fromkeys([*_signature(protocols[name].target).parameters, "name"]))


def _signature(protocol: Any) -> inspect.Signature:
    """The signature of the protocol's `load`, or of its constructor if it does not override `load`."""
    has_load = protocol.load.__func__ is not cast(Any, Evaluator.load).__func__
    return inspect.signature(protocol.load if has_load else protocol)


def _as_in_python(options: dict[str, Any]) -> dict[str, Any]:
    """Convert options from YAML or a command line, where None is "none" and YAML reads 1e-4 as text."""
    options = dict(options)
    if options.get("flip") == "none":
        options["flip"] = None
    if options.get("flip") not in ("sum", "concat", None):
        raise ValueError(f"flip is {options['flip']!r}, expected 'sum', 'concat' or none")
    for key in options.keys() & {"fars", "fpirs", "ranks"}:
        options[key] = options[key] if isinstance(options[key], list | tuple) else [options[key]]
    for key in options.keys() & {"fars", "fpirs"}:
        options[key] = [_rate(key, rate) for rate in options[key]]
    if options.get("far") is not None:
        options["far"] = _rate("far", options["far"])
    return options


def _rate(key: str, rate: Any) -> float:
    try:
        return float(rate)
    except (TypeError, ValueError):
        raise ValueError(f"{key}: expected a rate such as 1e-3, found {rate!r}") from None


@dataclass
class ProtocolArguments:
    """The data of the protocols and how to run them; each option is passed to the protocols that have it."""

    data: str | None = field(
        default=None,
        metadata={
            "help": "The protocols' data. verification, quality: a .bin, a pairs.txt, a CSV of pairs, Parquet, a Hub "
            "name, or a folder of published sets (lfw.bin, cfp_fp.bin, ...) to run all of. lfw, ...: the set's file or "
            "such a folder. folder, all_pairs, identification: identity data (a folder with one subfolder of images "
            "per person, RecordIO, Parquet, a Hub name, orl). fairness: pairs with a column group, a folder with one "
            ".bin file per group, or RFW's folder. ijb: the folder of IJB-B or IJB-C. tinyface: its folder."
        },
    )
    images: str | None = field(
        default=None, metadata={"help": "Folder of the images in a list of pairs, or of aligned copies of them."}
    )
    probes: str | None = field(
        default=None,
        metadata={
            "help": "Identity data to search for in `data`. By default, the first image of each person in `data` is "
            "enrolled and the others are probes."
        },
    )
    flip: Literal["sum", "concat", "none"] | None = field(
        default=None,
        metadata={"help": "How to combine the embeddings of an image and its flipped image; sum by default."},
    )
    similarity: Literal["cosine", "squared_euclidean"] | None = field(
        default=None,
        metadata={"help": "Whether thresholds are similarities or distances; similarities (cosine) by default."},
    )
    fars: list[float] | None = field(
        default=None,
        metadata={
            "help": "False accept rates to report: 1e-1 to 1e-6 by default, 1e-4 to 1e-6 for all_pairs, which keeps as "
            "many impostor scores as the highest rate requires."
        },
    )
    far: float | None = field(
        default=None,
        metadata={
            "help": "False accept rate that sets the threshold of quality and fairness: 1e-3 by default, or the next "
            "power of ten that the pairs can measure."
        },
    )
    quality: str | None = field(
        default=None, metadata={"help": "Column of the images with their quality; the embedding's norm by default."}
    )
    switches: list[str] | None = field(
        default=None,
        metadata={
            "help": "How ijb weights images: embedding norm (N), detector score (D), flipped image (F); N1D1F1 by "
            "default."
        },
    )
    cache_dir: str | None = field(
        default=None, metadata={"help": "Folder for ijb's embeddings, to resume an interrupted run."}
    )

    def specs(self, chosen: Sequence[str]) -> list[Spec]:
        """
        The specifications of the protocols on a command line, each with the options that it takes.

        Args:
            chosen: Names, data of `verification`, or YAML as in recipes: `'{ijb: {data: IJBC}}'`.

        Raises:
            ValueError: if a name is unknown, or an option is set that none of the protocols takes.
        """
        given = {option: value for option, value in vars(self).items() if value is not None}
        used: set[str] = set()
        specs: list[Spec] = []
        for text in chosen:
            name, own = parse_protocol(parse_yaml(text) if text.lstrip().startswith("{") else text)
            common = {option: given[option] for option in options_of(name) if option in given and option not in own}
            used |= common.keys()
            specs.append({name: common | own})
        if unused := [option for option in given if option not in used]:
            raise ValueError(f"--{unused[0]} has no effect on the chosen protocols: {', '.join(chosen)}.")
        return specs


def describe_protocols() -> str:
    """Describe the registered protocols for `--help`: names, summary and options."""
    names: dict[Callable[..., Any], list[str]] = {}
    for name, entry in protocols.items():
        names.setdefault(entry.target, []).append(name)
    paragraphs = []
    for same in names.values():
        lines = [protocols[same[0]].summary, f"Options: {', '.join(options_of(same[0]))}."]
        indented = [textwrap.fill(line, HELP_WIDTH, initial_indent=INDENT, subsequent_indent=INDENT) for line in lines]
        paragraphs.append("\n".join([f"  {', '.join(same)}", *indented]))
    return "\n".join(paragraphs)
