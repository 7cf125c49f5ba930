"""What a run adds to its model's card."""

import dataclasses
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from hf_face import IResNetConfig, IResNetModel
from hf_face.evaluation import Evaluator
from hf_face.hub import FaceModelCardData, TrainingData
from hf_face.hub.card_data import Evaluation
from hf_face.registry import methods, protocols
from hf_face.training import FaceTrainingArguments, MarginSoftmax, TransFace
from hf_face.training.card import (
    Measurement,
    base_model,
    complete_card,
    count_training_data,
    hardware_name,
    protocol_of,
    training_citations,
    training_costs,
    training_settings,
)

CARD = FaceModelCardData(license="mit", training_data=[TrainingData("ORL", "free for research")])


class Named(nn.Module):
    """A model of transformers in another one, loaded from somewhere."""

    def __init__(self, name: str):
        super().__init__()
        config = IResNetConfig(depths=[1], hidden_sizes=[4], stem_size=4, image_size=32, embedding_size=4)
        self.inner = IResNetModel(config)
        self.inner.name_or_path = name


@pytest.fixture
def make(tmp_path):
    """`make(**settings)`: what a card takes from a trainer; more than arguments is set afterwards."""

    def make(method=None, sample_rate=1.0, **settings):
        args = FaceTrainingArguments(str(tmp_path), use_cpu=True, report_to="none", **settings)
        publisher = SimpleNamespace(weights_step=7, started_at_step=0, started_at=0.0, measured={})
        head = SimpleNamespace(sample_rate=sample_rate)
        model = SimpleNamespace(head=head, backbone=Named(""), config=SimpleNamespace(num_identities=40))
        return SimpleNamespace(
            args=args,
            publisher=publisher,
            model=model,
            method=method or MarginSoftmax(),
            augment=None,
            augmentation="flip",
            train_dataset=range(400),
            state=SimpleNamespace(log_history=[{"train_runtime": 5.0}]),
        )

    return make


def test_a_card_has_the_publishers_statements_and_the_runs_data(make):
    trainer = make(TransFace(), sample_rate=0.5, learning_rate=0.25)
    trainer.model.backbone = Named("org/base")
    evaluator = SimpleNamespace(name="orl", flip="sum", primary_metric="accuracy")
    measured = Measurement(evaluator, {"accuracy": 0.5}, Path("roc.png"))
    trainer.publisher.measured = {"orl": measured, "cfp": dataclasses.replace(measured, figure=None)}
    stated = dataclasses.replace(
        CARD,
        evaluations=[Evaluation("mine", {"accuracy": 0.9})],
        hyperparameters={"learning_rate": "as published", "loss": "ours"},
        figures=["mine.png"],
        citations=["mine"],
    )
    card = complete_card(stated, trainer)
    assert card.base_model == "org/base"
    assert [each.name for each in card.evaluations] == ["orl", "orl", "mine"]
    assert card.evaluations[0].note == "embeddings of the image and its flipped image summed"
    assert (card.hyperparameters["learning_rate"], card.hyperparameters["loss"]) == ("as published", "ours")
    assert card.hyperparameters["method"] == "transface"
    assert card.figures == ["roc.png", "mine.png"]
    assert card.citations == ["mine", *methods["transface"].citations, "partial_fc"]
    assert (card.training_data[0].images, card.training_data[0].identities) == (400, 40)
    assert card.train_runtime == 5.0
    assert complete_card(dataclasses.replace(stated, base_model="org/other"), trainer).base_model == "org/other"


@pytest.mark.parametrize(("rate", "cited"), [(None, []), (1.0, []), (0.999, ["partial_fc"])])
def test_partial_fc_is_cited_where_centers_are_sampled(rate, cited):
    assert training_citations(None, None, rate) == cited


def test_protocols_are_cited():
    name, entry = next((name, entry) for name, entry in protocols.items() if entry.citations)
    evaluator = entry.target.__new__(entry.target)
    evaluator.name = name
    assert training_citations(None, None, None, [evaluator, evaluator]) == [*entry.citations, *entry.citations]


def test_an_evaluator_has_the_protocol_of_its_name_if_that_is_of_its_class():
    class Own(Evaluator):
        def __init__(self, name):
            self.name = name

        def evaluate(self, embedder, figures_dir=None): ...

    entries = list(protocols.values())
    last = next(each for each in reversed(entries) if protocols.entry_of(each.target.__new__(each.target)) != each)
    evaluator = last.target.__new__(last.target)  # one class with several names
    evaluator.name = last.name
    assert protocol_of(evaluator) == last
    evaluator.name = "mine"
    assert protocol_of(evaluator) == protocols.entry_of(evaluator)
    evaluator.name = next(each.name for each in entries if each.target is not last.target)
    assert protocol_of(evaluator) == protocols.entry_of(evaluator)
    assert protocol_of(Own(last.name)) is None


def test_a_base_model_is_on_the_hub(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs" / "mine").mkdir(parents=True)
    names = ("org/base", "runs/mine", "resnet10t", "runs/no model", "")
    assert [base_model(Named(name)) for name in names] == ["org/base", None, None, None, None]


@pytest.mark.parametrize(
    ("sources", "counts"),
    [
        ([TrainingData("a", "mit")], [(400, 40)]),
        ([TrainingData("a", "mit", images=3, identities=2)], [(3, 2)]),
        ([TrainingData("a", "mit", images=3)], [(3, 40)]),
        ([TrainingData("a", "mit"), TrainingData("b", "mit")], [(None, None)] * 2),
        ([], []),
    ],
)
def test_a_single_training_set_is_counted(make, sources, counts):
    card = dataclasses.replace(CARD, training_data=sources)
    assert [(each.images, each.identities) for each in count_training_data(card, make())] == counts
    stream = make()
    stream.train_dataset = iter(())
    assert count_training_data(card, stream) == sources


def test_settings_that_are_set_are_listed(make):
    settings = training_settings(make(weight_decay=0.0, max_steps=1, optim="adamw_torch"))
    assert settings["weight_decay"] == 0.0
    assert settings["learning_rate"] == 5e-5
    assert settings["lr_scheduler_type"] == "linear"
    assert settings["adam_beta1"] == 0.9
    assert settings["max_steps"] == 1 and "num_train_epochs" not in settings
    assert (settings["partial_fc_sample_rate"], settings["augmentation"], settings["steps"]) == (1.0, "flip", 7)
    assert not settings.keys() & {"ema_decay", "head_learning_rate", "method", "lora", "lr_milestones", "optim_args"}


def test_settings_of_other_runs(make):
    settings = training_settings(make(TransFace(), optim="sgd", num_train_epochs=4, lr_milestones=[0.5]))
    assert settings["num_train_epochs"] == 4 and "max_steps" not in settings
    assert settings["lr_milestones"] == [0.5] and "lr_scheduler_type" not in settings
    assert settings["method"] == "transface" and "adam_beta1" not in settings
    assert training_settings(make(max_steps=0))["num_train_epochs"] == 3
    assert "method" not in training_settings(make(type("Own", (MarginSoftmax,), {})()))  # not registered


@pytest.mark.parametrize(
    ("log", "started_at_step", "runtime"),
    [
        ([{"loss": 1.0}, {"train_runtime": 1.0}, {"train_runtime": 2.0}, {"train_runtime": 3.0}], 0, 3.0),
        ([{"train_runtime": 3.0}], 1, 8.0),
        ([{"loss": 1.0}], 0, 8.0),
    ],
)
def test_costs_are_known_of_a_whole_run(make, log, started_at_step, runtime):
    trainer = make()
    trainer.state.log_history, trainer.publisher.started_at_step = log, started_at_step
    costs = training_costs(dataclasses.replace(CARD, train_runtime=8.0, emissions_kg=0.5), trainer)
    assert costs["train_runtime"] == runtime
    assert ("hardware" in costs) == (runtime == 3.0)
    stated = training_costs(dataclasses.replace(CARD, hardware="a laptop"), trainer)
    assert stated.get("hardware", "a laptop") == "a laptop"
    assert runtime == 8.0 or costs["hardware"] == hardware_name(torch.device("cpu"), 1)


def test_hardware_of_several_ranks_is_counted():
    one = hardware_name(torch.device("cpu"), 1)
    assert hardware_name(torch.device("cpu"), 2) == f"2 x {one}" and " x " not in one
    assert hardware_name(torch.device("meta"), 3) == "3 x meta"
