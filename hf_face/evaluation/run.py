"""Evaluation of a saved model on protocols, as on the command line."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from accelerate import PartialState
from transformers import AutoModel

from ..embedding import Embedder
from ..models.loading import load_image_processor
from ..registry import Spec
from ..user_input import check_at_least, check_output_folder
from ..writing import whole_file
from .protocols import load_protocols

Autocast = Literal["no", "bf16", "fp16"]


@dataclass
class EvaluationArguments:
    """The model to evaluate and how to run it."""

    model: str = field(metadata={"help": "Model folder or Hub name, with its image processor."})
    protocol: list[str] = field(
        metadata={
            "help": "One or more protocols: names, verification pairs (lfw.bin), or YAML with options as in a recipe: "
            "'{ijb: {data: IJBC}}'."
        }
    )
    plugins: list[str] = field(
        default_factory=list, metadata={"help": "Modules to import first, which register their own protocols."}
    )
    output_dir: str | None = field(default=None, metadata={"help": "Folder to save figures and metrics.json to."})
    batch_size: int | None = field(
        default=None,
        metadata={"help": "Images per forward pass and process; 16 on a CPU and 128 on a GPU by default."},
    )
    autocast: Autocast = field(default="no", metadata={"help": "Precision of the forward passes."})
    num_workers: int = field(default=0, metadata={"help": "Number of processes that load images."})
    trust_remote_code: bool = field(
        default=False, metadata={"help": "Run the Python code in the model folder; only for authors you trust."}
    )


def evaluate_model(
    model: str | Path,
    specs: Sequence[Spec],
    output_dir: str | Path | None = None,
    batch_size: int | None = None,
    autocast: Autocast = "no",
    num_workers: int = 0,
    trust_remote_code: bool = False,
) -> dict[str, Any]:
    """
    Evaluate a saved model on one or more protocols. Images that several protocols share are embedded once.

    Args:
        model (`str` or `Path`): Model folder or Hub name, with its image processor.
        specs (sequence of `str` or `dict`): The protocols; see [`load_protocol`].
        output_dir (`str` or `Path`, *optional*): Folder to save figures and the report (`metrics.json`) to.
        batch_size (`int`, *optional*): Images per forward pass and process; 16 on a CPU and 128 on a GPU by default.
        autocast (`str`): Precision of the forward passes: `"no"`, `"bf16"` or `"fp16"`.
        num_workers (`int`): Number of processes that load images.
        trust_remote_code (`bool`): Whether to run code from the model folder.

    Returns:
        The report, the same on every rank: `model`, `metrics` and `not_measurable`, with names as logged
        ("lfw_accuracy").

    Raises:
        FileNotFoundError: if the model has no image processor, or a protocol's data does not exist.
        OSError: if the model does not exist.
        ValueError: if a protocol or an option is unknown, an embedding or metric is not finite, or the folder cannot be
            written to.

    Example:
    ```python
    >>> report = evaluate_model("outputs/demo", ["lfw.bin", {"ijb": {"data": "IJBC"}}], output_dir="results")
    >>> report["metrics"]["lfw_accuracy"], report["metrics"]["ijbc_tar@far=1e-4"]
    (0.998, 0.96)
    ```
    """
    check_at_least(1, batch_size=batch_size)
    check_at_least(0, num_workers=num_workers)
    if output_dir is not None:
        check_output_folder(output_dir)
    state = PartialState(cpu=not torch.accelerator.is_available())
    evaluators = load_protocols(specs)
    image_processor = load_image_processor(model, trust_remote_code)
    embedder = Embedder(
        AutoModel.from_pretrained(model, trust_remote_code=trust_remote_code).to(state.device),
        image_processor,
        batch_size=batch_size,
        flip=any(evaluator.needs_flip for evaluator in evaluators),
        dtype={"no": None, "bf16": torch.bfloat16, "fp16": torch.float16}[autocast],
        num_workers=num_workers,
    )
    report: dict[str, Any] = {"model": str(model), "metrics": {}, "not_measurable": []}
    for evaluator in evaluators:
        report["metrics"] |= evaluator.prefixed(evaluator.evaluate(embedder, output_dir))
        report["not_measurable"] += evaluator.prefixed(dict.fromkeys(evaluator.not_measurable))
    if output_dir is not None and state.is_main_process:
        Path(output_dir).mkdir(parents=True, exist_ok=True)
        with whole_file(Path(output_dir, "metrics.json")) as unfinished:
            unfinished.write_text(as_json(report) + "\n")
    return report


def as_json(report: dict[str, Any]) -> str:
    return json.dumps(report, indent=2)
