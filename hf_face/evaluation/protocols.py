"""
Protocols by name: what recipes (`eval_data:`) and command lines ask for becomes evaluators.

    load_protocol("lfw.bin")                                         # verification pairs
    load_protocol({"lfw": {"data": "faces_emore"}})                  # a protocol of the registry, with options
    load_protocol({"ijb": {"data": "IJBC", "switches": ["N1D1F1", "N0D0F0"], "name": "mine"}})
"""

import inspect
import textwrap
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, cast

import yaml

from ..registry import Spec, parse_spec, protocols
from .evaluator import Evaluator
from .protocol_data import looks_like_path


def load_protocol(spec: Spec) -> list[Evaluator]:
    """
    The evaluators of one protocol with its data; most have one, IJB has one for each of its switches.

    Args:
        spec (`str` or `dict`):
            `{name: {option: value}}` with a name from the registry and the options of that class's `load`, or the data
            of `verification` alone. Every protocol has the option `name`, what its metrics are prefixed with.

    Raises:
        FileNotFoundError: if the data is not there.
        ValueError: for an unknown name, an unknown option or a missing one.
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
    The evaluators of several protocols, to be run together.

    Raises:
        ValueError: as [`load_protocol`], and if two evaluators have one name.
    """
    evaluators = [evaluator for spec in specs for evaluator in load_protocol(spec)]
    check_names(evaluators)
    return evaluators


def check_names(evaluators: Sequence[Evaluator]) -> None:
    """
    Raises:
        ValueError: if two evaluators have one name, and with it the same keys in logs.
    """
    for name, count in Counter(evaluator.name for evaluator in evaluators).items():
        if count > 1:
            raise ValueError(
                f"{count} protocols of this run are called {name!r}. Give them different names, for instance "
                f"{{verification: {{data: ..., name: {name}_2}}}}."
            )


def parse_protocol(spec: Spec) -> tuple[str, dict[str, Any]]:
    """Name and options of a protocol; a path or Hub name is the data of `verification`."""
    name, options = parse_spec(spec, protocols.kind)
    if isinstance(spec, str) and name not in protocols and ("/" in name or looks_like_path(name)):
        return "verification", {"data": name}
    return name, options


def options_of(name: str) -> list[str]:
    """The options that a protocol takes; all take `name`."""
    return list(dict.fromkeys([*_signature(protocols[name].target).parameters, "name"]))


def _signature(protocol: Any) -> inspect.Signature:
    """What the protocol's `load` takes, or its constructor where it has no `load` of its own."""
    has_load = protocol.load.__func__ is not cast(Any, Evaluator.load).__func__
    return inspect.signature(protocol.load if has_load else protocol)


def _as_in_python(options: dict[str, Any]) -> dict[str, Any]:
    """YAML and command lines have no None but "none", and YAML takes 1e-4 for text."""
    options = dict(options)
    if options.get("flip") == "none":
        options["flip"] = None
    if options.get("flip") not in ("sum", "concat", None):
        raise ValueError(f"flip is {options['flip']!r}, expected 'sum', 'concat' or none")
    if options.get("far") is not None:
        options["far"] = float(options["far"])
    for key in options.keys() & {"fars", "fpirs"}:
        rates = options[key] if isinstance(options[key], list | tuple) else [options[key]]
        options[key] = [float(rate) for rate in rates]
    return options


@dataclass
class ProtocolArguments:
    """Where the protocols' data is and how to run them; each option goes to the protocols that have it."""

    data: str | None = field(
        default=None,
        metadata={
            "help": "The protocols' data. verification, quality: a .bin, a pairs.txt, a CSV of pairs, Parquet, a Hub "
            "name, or a folder of published sets (lfw.bin, cfp_fp.bin, ...), all of which are run. lfw, ...: the set's "
            "file or such a folder. folder, all_pairs, identification: identity data (a folder with one folder of "
            "photographs a person, RecordIO, Parquet, a Hub name, orl). fairness: pairs with a column group, a folder "
            "with one .bin a group, or RFW's own folder. ijb: the folder of IJB-B or IJB-C. tinyface: its folder."
        },
    )
    images: str | None = field(
        default=None, metadata={"help": "Folder of the images that a list of pairs names, or of aligned copies."}
    )
    probes: str | None = field(
        default=None,
        metadata={
            "help": "Identity data to search in `data`; if left out, everybody's first image in `data` is enrolled and "
            "the others are probes."
        },
    )
    flip: Literal["sum", "concat", "none"] | None = field(
        default=None,
        metadata={"help": "How to join the embeddings of an image and of its flipped image; sum if left out."},
    )
    similarity: Literal["cosine", "squared_euclidean"] | None = field(
        default=None,
        metadata={"help": "Whether thresholds are similarities or distances; similarities (cosine) if left out."},
    )
    fars: list[float] | None = field(
        default=None,
        metadata={
            "help": "False accept rates to report: 1e-1 to 1e-6 if left out, 1e-4 to 1e-6 of all_pairs, which keeps as "
            "many impostor scores as the highest rate takes."
        },
    )
    far: float | None = field(
        default=None,
        metadata={
            "help": "False accept rate that sets the threshold of quality and fairness: if left out 1e-3, or the next "
            "power of ten that the pairs can show."
        },
    )
    quality: str | None = field(
        default=None, metadata={"help": "Column of the images with their quality; the embedding's norm if left out."}
    )
    switches: list[str] | None = field(
        default=None,
        metadata={
            "help": "What weighs an image of ijb: embedding norm (N), detector score (D), flipped image (F); N1D1F1 if "
            "left out."
        },
    )
    cache_dir: str | None = field(
        default=None, metadata={"help": "Where ijb keeps its embeddings, so that an interrupted run goes on."}
    )

    def specs(self, chosen: Sequence[str]) -> list[Spec]:
        """
        The protocols of a command line, each with those of these options that it takes.

        Args:
            chosen: Names, data of `verification`, or YAML as recipes have it: `'{ijb: {data: IJBC}}'`.

        Raises:
            ValueError: if an option is set that none of them takes, or for a name that is not known.
        """
        given = {option: value for option, value in vars(self).items() if value is not None}
        used: set[str] = set()
        specs: list[Spec] = []
        for text in chosen:
            name, own = parse_protocol(yaml.safe_load(text) if text.lstrip().startswith("{") else text)
            common = {option: given[option] for option in options_of(name) if option in given and option not in own}
            used |= common.keys()
            specs.append({name: common | own})
        if unused := [option for option in given if option not in used]:
            raise ValueError(f"--{unused[0]} has no effect on the chosen protocols: {', '.join(chosen)}.")
        return specs


def describe_protocols() -> str:
    """The protocols of the registry for `--help`: their names, what each is and its options."""
    names: dict[Callable[..., Any], list[str]] = {}
    for name, entry in protocols.items():
        names.setdefault(entry.target, []).append(name)
    paragraphs = []
    for same in names.values():
        lines = [protocols[same[0]].summary, f"Options: {', '.join(options_of(same[0]))}."]
        indented = [textwrap.fill(line, 112, initial_indent=" " * 6, subsequent_indent=" " * 6) for line in lines]
        paragraphs.append("\n".join([f"  {', '.join(same)}", *indented]))
    return "\n".join(paragraphs)
