"""Protocols of a run by whatever names them, and the metric that chooses the best model."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn
from transformers.trainer_utils import SaveStrategy

from hf_face.evaluation import Evaluator, VerificationEvaluator
from hf_face.training import evaluating
from hf_face.training.evaluating import (
    as_evaluators,
    build_embedder,
    choose_best_model_metric,
    choose_evaluators,
    embed_dataset,
    run_protocols,
    search_metric,
)


class Ready(Evaluator):
    """A protocol that has its results."""

    primary_metric, flip = "accuracy", None

    def __init__(self, name: str, primary_metric: str = "accuracy"):
        self.name, self.primary_metric, self.greater_is_better = name, primary_metric, primary_metric != "eer"

    def evaluate(self, embedder, figures_dir=None):
        return {self.primary_metric: 0.5}


def names(evaluators: list[Evaluator]) -> list[str]:
    return [each.name for each in evaluators]


def test_protocols_have_many_forms(orl_pairs, monkeypatch):
    monkeypatch.setattr(evaluating, "load_protocol", lambda text: [Ready(f"{text}-a"), Ready(f"{text}-b")])
    assert as_evaluators(None) is None
    (alone,) = as_evaluators(orl_pairs)
    assert isinstance(alone, VerificationEvaluator) and alone.name == "orl"
    assert names(as_evaluators(Ready("mine"))) == ["mine"]
    assert names(as_evaluators("ijb")) == ["ijb-a", "ijb-b"]
    assert names(as_evaluators([Ready("mine"), "ijb"])) == ["mine", "ijb-a", "ijb-b"]
    mine = Ready("mine")
    assert names(as_evaluators({"one": mine, "two": "ijb"})) == ["one", "two_ijb-a", "two_ijb-b"]
    assert mine.name == "mine"
    with pytest.raises(ValueError, match="2 protocols of this run are called 'mine'"):
        as_evaluators([mine, mine])
    for people in (orl_pairs.images, orl_pairs.images.to_iterable_dataset()):
        with pytest.raises(ValueError, match="A dataset alone is not a protocol"):
            as_evaluators(people)
    with pytest.raises(ValueError, match="the name or file of a protocol, found int"):
        as_evaluators(5)


def test_evaluators_are_chosen_from_a_trainers_own_or_given():
    own = [Ready("a"), Ready("b")]
    assert choose_evaluators(None, own) is own
    assert choose_evaluators("b", own) == own[1:]
    assert names(choose_evaluators(Ready("c"), own)) == ["c"]
    assert names(choose_evaluators(Ready("c"), None)) == ["c"]
    for none in (None, []):
        with pytest.raises(ValueError, match="Evaluation requires a protocol"):
            choose_evaluators(None, none)


@pytest.mark.parametrize(
    ("own", "metric", "strategy", "expected"),
    [
        (["a_eer", "b_accuracy"], None, "no", (None, None)),
        (["a_eer", "b_accuracy"], None, "best", ("eval_a_eer", False)),
        (["a_eer", "b_accuracy"], "loss", "no", ("eval_a_eer", False)),
        (["a_eer", "b_accuracy"], "eval_loss", "steps", ("eval_a_eer", False)),
        (["a_eer", "b_accuracy"], "b_accuracy", "best", ("b_accuracy", True)),
        (None, None, "best", ("loss", None)),
        (None, "loss", "best", ("loss", None)),
        (None, None, "no", (None, None)),
    ],
)
def test_the_best_model_has_a_metric_and_its_direction(own, metric, strategy, expected):
    evaluators = own and [Ready(*name.split("_")) for name in own]
    args = SimpleNamespace(metric_for_best_model=metric, save_strategy=SaveStrategy(strategy), greater_is_better=None)
    choose_best_model_metric(args, evaluators)
    assert (args.metric_for_best_model, args.greater_is_better) == expected
    given = SimpleNamespace(metric_for_best_model="a_eer", save_strategy=SaveStrategy.NO, greater_is_better=True)
    choose_best_model_metric(given, evaluators)
    assert given.greater_is_better is True


def test_metrics_belong_to_the_protocol_with_the_longest_name():
    evaluators = [Ready("a", "eer"), Ready("a_eer")]
    assert evaluating.is_greater_better("eval_a_eer_accuracy", evaluators)
    assert not evaluating.is_greater_better("a_eer", evaluators[:1])
    with pytest.raises(
        ValueError, match=r"'b_eer' is the metric of none of the protocols a, a_eer: set it to .* a_eer"
    ):
        evaluating.is_greater_better("eval_b_eer", evaluators)


@pytest.mark.parametrize(
    ("metric", "expected"),
    [(None, ("eval_a_eer", False)), ("b_accuracy", ("eval_b_accuracy", True)), ("eval_a_eer", ("eval_a_eer", False))],
)
def test_a_search_has_a_metric(metric, expected):
    own = [Ready("a", "eer"), Ready("b")]
    assert search_metric(SimpleNamespace(metric_for_best_model=metric), own) == expected


@pytest.fixture
def trainer(image_processor):
    """What protocols take from a trainer."""
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    args = SimpleNamespace(
        device=torch.device("cpu"),
        bf16_full_eval=False,
        fp16_full_eval=False,
        per_device_eval_batch_size=5,
        dataloader_num_workers=3,
        disable_tqdm=True,
    )
    remembered = []
    return SimpleNamespace(
        args=args,
        evaluated_model=model,
        accelerator=SimpleNamespace(mixed_precision="no"),
        processing_class=image_processor,
        remembered=remembered,
        publisher=SimpleNamespace(remember=lambda *given: remembered.append(given)),
    )


@pytest.mark.parametrize(
    ("mixed_precision", "settings", "weights", "dtype"),
    [
        ("no", {}, torch.float32, None),
        ("bf16", {}, torch.float32, torch.bfloat16),
        ("fp16", {}, torch.float32, torch.float16),
        ("fp16", {"bf16_full_eval": True}, torch.bfloat16, None),
        ("no", {"fp16_full_eval": True}, torch.float16, None),
    ],
)
def test_evaluation_has_a_precision(trainer, mixed_precision, settings, weights, dtype):
    trainer.accelerator.mixed_precision = mixed_precision
    vars(trainer.args).update(settings)
    embedder = build_embedder(trainer, flip=False)
    assert embedder.model[0].weight.dtype == weights and embedder.dtype == dtype
    assert trainer.evaluated_model[0].weight.dtype == torch.float32
    assert (embedder.batch_size, embedder.num_workers, embedder.flip, embedder.progress) == (5, 3, False, False)
    trainer.args.disable_tqdm = False
    assert build_embedder(trainer, flip=True).progress


def test_all_protocols_are_run_with_their_prefixes(trainer):
    evaluators = [Ready("a"), Ready("b", "eer")]
    metrics = run_protocols(trainer, evaluators, "test", "figures")
    assert metrics.keys() == {"test_a_accuracy", "test_b_eer", "test_runtime"}
    assert trainer.remembered == [
        (evaluators[0], {"accuracy": 0.5}, "figures"),
        (evaluators[1], {"eer": 0.5}, "figures"),
    ]


def test_images_are_embedded_with_their_labels_if_they_have_some(trainer, model, orl):
    trainer.evaluated_model = model
    output = embed_dataset(trainer, orl.select([0, 399]), "test")
    assert output.predictions.shape == (2, 16) and output.label_ids.tolist() == [0, 39]
    assert output.metrics["test_samples_per_second"] > 0
    assert embed_dataset(trainer, orl.select([0]).select_columns("image"), "test").label_ids is None
    with pytest.raises(ValueError, match="predict embeds the images of a dataset, found list"):
        embed_dataset(trainer, [], "test")
