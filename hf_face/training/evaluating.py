"""The protocols of a training run, and the metric that chooses its best model."""

import copy
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate.utils import broadcast
from datasets import Dataset, IterableDataset
from transformers.trainer_utils import PredictionOutput, SaveStrategy, speed_metrics

from ..data import VerificationPairs
from ..embedding import Embedder
from ..evaluation import Evaluator, VerificationEvaluator
from ..evaluation.protocols import check_names, load_protocol
from .arguments import FaceTrainingArguments
from .card import Run

Protocol = VerificationPairs | Evaluator | str
Protocols = Protocol | Sequence[Protocol] | Mapping[str, Protocol]


def as_evaluators(protocols: Protocols | None) -> list[Evaluator] | None:
    """
    Convert protocols to a list of evaluators, using [`VerificationEvaluator`] for pairs and the keys of a mapping as
    names. Text is the name of a protocol or its data, as in a recipe.

    Raises:
        ValueError: if two of them have the same name, and would log the same metrics, or one is not a protocol.
    """
    if protocols is None:
        return None
    if isinstance(protocols, Mapping):
        evaluators = [each for name, protocol in protocols.items() for each in _named(name, _load(protocol))]
    elif isinstance(protocols, Sequence) and not isinstance(protocols, str):
        evaluators = [each for protocol in protocols for each in _load(protocol)]
    else:
        evaluators = _load(protocols)
    check_names(evaluators)
    return evaluators


def choose_evaluators(protocols: Protocols | None, own: list[Evaluator] | None) -> list[Evaluator]:
    """
    The evaluators to run: a trainer's `own`, one of them by its name, or others.

    Raises:
        ValueError: if there are none.
    """
    chosen = [each for each in own or [] if each.name == protocols]
    evaluators = chosen or (own if protocols is None else as_evaluators(protocols))
    if not evaluators:
        raise ValueError("Evaluation requires a protocol: pass verification pairs or a protocol as eval_dataset.")
    return evaluators


def choose_best_model_metric(args: FaceTrainingArguments, evaluators: list[Evaluator] | None) -> None:
    """
    Complete `metric_for_best_model` and `greater_is_better`: by default, the primary metric of the first protocol, and
    the direction that the metric itself has.

    Raises:
        ValueError: if no protocol has the metric's prefix.
    """
    if args.save_strategy == SaveStrategy.BEST and args.metric_for_best_model is None:
        args.metric_for_best_model = "loss"  # as transformers does with load_best_model_at_end
    if not evaluators or args.metric_for_best_model is None:
        return
    if args.metric_for_best_model in ("loss", "eval_loss"):
        args.metric_for_best_model = primary_metric(evaluators)
    direction = is_greater_better(args.metric_for_best_model, evaluators)
    if args.greater_is_better is None:
        args.greater_is_better = direction


def search_metric(args: FaceTrainingArguments, own: list[Evaluator] | None) -> tuple[str, bool]:
    """The metric that a hyperparameter search optimizes by default, and whether greater values are better."""
    evaluators = choose_evaluators(None, own)
    metric = args.metric_for_best_model or primary_metric(evaluators)
    metric = metric if metric.startswith("eval_") else f"eval_{metric}"
    return metric, is_greater_better(metric, evaluators)


def run_protocols(
    trainer: Run, evaluators: list[Evaluator], prefix: str, figures_dir: str | Path | None
) -> dict[str, float]:
    """Run protocols on a trainer's current weights. Images that several of them share are embedded once."""
    start_time = time.time()
    embedder = build_embedder(trainer, flip=any(evaluator.needs_flip for evaluator in evaluators))
    metrics: dict[str, float] = {}
    for evaluator in evaluators:
        found = evaluator.evaluate(embedder, figures_dir)
        trainer.publisher.remember(evaluator, found, figures_dir)
        metrics |= {f"{prefix}_{name}": value for name, value in evaluator.prefixed(found).items()}
    return metrics | speed_metrics(prefix, start_time)


def embed_dataset(trainer: Run, dataset: Dataset, prefix: str) -> PredictionOutput:
    """
    Embed the images of a dataset with a trainer's current weights.

    Raises:
        ValueError: if it is not a dataset.
    """
    if not isinstance(dataset, Dataset):
        raise ValueError(
            f"predict embeds the images of a dataset, found {type(dataset).__name__}: pass the images of a protocol "
            "(pairs.images), or run it with evaluate."
        )
    start_time = time.time()
    embeddings = build_embedder(trainer, flip=False).embed(dataset).embeddings
    labels = np.asarray(dataset["label"]) if "label" in dataset.column_names else None
    return PredictionOutput(embeddings, labels, speed_metrics(prefix, start_time, num_samples=len(embeddings)))


def build_embedder(trainer: Run, flip: bool) -> Embedder:
    """An embedder of a trainer's current weights, in the precision of its evaluation."""
    model, args = trainer.evaluated_model, trainer.args
    broadcast(list(model.buffers()))  # all ranks use the batch norm statistics of the first one, which are saved
    precision = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(trainer.accelerator.mixed_precision)
    if args.bf16_full_eval or args.fp16_full_eval:
        whole = torch.bfloat16 if args.bf16_full_eval else torch.float16
        model, precision = copy.deepcopy(model).to(args.device, whole), None
    return Embedder(
        model,
        trainer.processing_class,
        batch_size=args.per_device_eval_batch_size,
        flip=flip,
        dtype=precision,
        num_workers=args.dataloader_num_workers,
        progress=not args.disable_tqdm,
    )


def primary_metric(evaluators: list[Evaluator]) -> str:
    """The metric to compare models by, as `Trainer` logs it: the primary metric of the first protocol."""
    return f"eval_{evaluators[0].name}_{evaluators[0].primary_metric}"


def is_greater_better(metric: str, evaluators: list[Evaluator]) -> bool:
    """
    Whether greater values of a logged metric are better.

    Raises:
        ValueError: if no protocol has the metric's prefix.
    """
    name = metric.removeprefix("eval_")
    prefixed = [each for each in evaluators if name.startswith(f"{each.name}_")]
    if not prefixed:
        names = ", ".join(each.name for each in evaluators)
        raise ValueError(
            f"metric_for_best_model={name!r} is the metric of none of the protocols {names}: set it to one such as "
            f"{primary_metric(evaluators).removeprefix('eval_')}."
        )
    evaluator = max(prefixed, key=lambda each: len(each.name))
    return evaluator.is_greater_better(name.removeprefix(f"{evaluator.name}_"))


def _load(protocol: Any) -> list[Evaluator]:
    if isinstance(protocol, VerificationPairs):
        return [VerificationEvaluator(protocol)]
    if isinstance(protocol, Evaluator):
        return [protocol]
    if isinstance(protocol, str):
        return load_protocol(protocol)
    if isinstance(protocol, Dataset | IterableDataset):
        raise ValueError(
            "A dataset alone is not a protocol: pass make_verification_pairs(dataset) or an Evaluator as eval_dataset. "
            "trainer.predict(dataset) embeds its images."
        )
    raise ValueError(
        "Expected verification pairs, an Evaluator, or the name or file of a protocol, found "
        f"{type(protocol).__name__}."
    )


def _named(name: str, evaluators: list[Evaluator]) -> list[Evaluator]:
    renamed = [copy.copy(evaluator) for evaluator in evaluators]  # those of the user keep their names
    for evaluator in renamed:
        evaluator.name = name if len(renamed) == 1 else f"{name}_{evaluator.name}"
    return renamed
