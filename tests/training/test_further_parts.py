"""What checkpoints have besides what transformers' Trainer knows: saved, loaded and set up when it is there."""

from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from hf_face.training import FaceTrainingArguments, MarginSoftmax, further_parts
from hf_face.training.further_parts import FurtherParts
from hf_face.training.lora import BaseOfAdapter, add_lora


class Noting:
    """A part that notes what is done with it."""

    def __init__(self, name: str, calls: list, **attributes):
        self.name, self.calls = name, calls
        vars(self).update(attributes)

    def __getattr__(self, method: str):
        return lambda *given, **named: self.calls.append((self.name, method, *given, *named.values()))


@pytest.fixture
def make(monkeypatch):
    """`make(splits, is_split, **settings)`: the parts of a trainer that has all of them, and the calls of these."""

    def make(splits=False, is_split=True, **settings) -> tuple[FurtherParts, list]:
        calls: list = []
        defaults = {"should_save": True, "save_only_model": False, "load_best_model_at_end": True, "output_dir": "run"}
        trainer = SimpleNamespace(
            args=SimpleNamespace(**defaults | settings),
            accelerator=None,
            model="model",
            model_wrapped="wrapped",
            optimizer="optimizer",
            state=SimpleNamespace(global_step=3),
            data_collator=SimpleNamespace(num_skipped=0),
        )
        parts = FurtherParts(trainer, MarginSoftmax())
        assert trainer.ema is None
        parts.base = Noting("base", calls)
        trainer.ema, trainer._streamed = Noting("ema", calls), Noting("stream", calls)
        trainer.class_centers = Noting("centers", calls, is_split=is_split)
        monkeypatch.setattr(further_parts, "splits_weights", lambda accelerator: splits)
        monkeypatch.setattr(further_parts, "frozen_names", lambda model: set())
        monkeypatch.setattr(further_parts, "keep_best_checkpoint", lambda *given: calls.append(("best", given[1])))
        return parts, calls

    return make


FOLDER = Path("folder")


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        (
            {},
            [
                ("base", "save", FOLDER),
                ("ema", "save", FOLDER, True),
                ("centers", "save", FOLDER, "optimizer"),
                ("stream", "save", FOLDER, 3),
            ],
        ),
        (
            {"should_save": False},
            [
                ("ema", "save", FOLDER, False),
                ("centers", "save", FOLDER, "optimizer"),
                ("stream", "save", FOLDER, 3),
            ],
        ),
        (
            {"save_only_model": True, "is_split": False},
            [("base", "save", FOLDER), ("ema", "save", FOLDER, True)],
        ),
        (
            {"save_only_model": True},
            [("base", "save", FOLDER), ("ema", "save", FOLDER, True), ("centers", "save", FOLDER, None)],
        ),
    ],
)
def test_what_is_saved(make, settings, expected):
    parts, calls = make(**settings)
    parts.save(FOLDER)
    assert calls == expected


@pytest.mark.parametrize(
    ("splits", "is_split", "own"), [(False, False, True), (False, True, True), (True, True, True), (True, False, False)]
)
def test_what_is_loaded(make, splits, is_split, own):
    """Class centers that an engine splits have been loaded by it."""
    parts, calls = make(splits, is_split)
    parts.load(FOLDER)
    centers = [("centers", "load", FOLDER, "optimizer")] if own else []
    assert calls == [("base", "check", FOLDER), *centers, ("ema", "load", FOLDER, "wrapped")]
    parts.trainer.ema = parts.trainer._streamed = None
    calls.clear()
    parts.load(FOLDER)
    parts.save(FOLDER)
    assert {name for name, *_ in calls} <= {"base", "centers"}


@pytest.mark.parametrize("resumed", [None, FOLDER])
@pytest.mark.parametrize(("load_best", "best_step"), [(True, 2), (True, None), (False, 2)])
def test_a_run_goes_on_with_its_parts(make, resumed, load_best, best_step):
    parts, calls = make(load_best_model_at_end=load_best)
    parts.trainer._resumed_from = resumed
    state = SimpleNamespace(best_global_step=best_step)
    parts.on_train_begin(parts.trainer.args, state, None)
    assert (("best", FOLDER) in calls) == (resumed is not None and load_best and best_step is not None)
    assert (("stream", "load", FOLDER) in calls) == (("base", "check", FOLDER) in calls) == (resumed is not None)


@pytest.mark.parametrize("average", [True, False])
def test_a_run_that_averages_no_more_goes_on_from_the_weights_that_were_averaged(make, monkeypatch, average):
    parts, calls = make()
    monkeypatch.setattr(further_parts, "load_raw_weights", lambda *given: calls.append(("raw", *given)))
    parts.trainer._resumed_from = FOLDER
    if not average:
        parts.trainer.ema = None
    parts.on_train_begin(parts.trainer.args, SimpleNamespace(best_global_step=None), None)
    assert (("raw", "model", FOLDER, "wrapped") in calls) != average


def test_trainable_parameters_are_told_if_some_are_frozen(make, monkeypatch):
    parts, _ = make()
    logs: list = []
    parts.trainer.log, parts.trainer._resumed_from = logs.append, None
    monkeypatch.setattr(further_parts, "num_trained", lambda model: 6)
    parts.on_train_begin(parts.trainer.args, None, None)
    assert logs == []
    monkeypatch.setattr(further_parts, "frozen_names", lambda model: {"bias"})
    parts.on_train_begin(parts.trainer.args, None, None)
    assert logs == [{"trainable_parameters": 6}]


@pytest.mark.parametrize(
    ("load_best", "best", "loaded"), [(True, "best", True), (True, None, False), (False, "best", False)]
)
def test_the_best_parts_are_loaded_at_the_end(make, load_best, best, loaded):
    parts, calls = make(load_best_model_at_end=load_best)
    parts.on_train_end(parts.trainer.args, SimpleNamespace(best_model_checkpoint=best), None)
    assert (("base", "check", Path("best")) in calls) == loaded


@pytest.mark.parametrize(
    ("rate", "splits", "moves"), [(0.5, True, True), (0.5, False, False), (None, True, False), (None, False, False)]
)
def test_centers_that_an_engine_leaves_alone_are_moved_to_the_device(make_trainer, monkeypatch, rate, splits, moves):
    trainer = make_trainer(partial_fc_sample_rate=rate, optim="sgd")
    monkeypatch.setattr(FaceTrainingArguments, "device", torch.device("meta"))
    monkeypatch.setattr(further_parts, "splits_weights", lambda accelerator: splits)
    trainer.further_parts.set_up()
    assert trainer.model.head.weight.is_meta == moves


@pytest.mark.parametrize("splits", [True, False])
def test_the_base_of_an_adapter_is_known_before_an_engine_splits_it(make_trainer, monkeypatch, splits):
    model = make_trainer().model
    add_lora(model, {"target_modules": ["qkv"]})
    monkeypatch.setattr(further_parts, "splits_weights", lambda accelerator: splits)
    trainer = make_trainer(parameters={"model": model})
    before = BaseOfAdapter(model).digest()
    model.backbone.get_base_model().model.norm.weight.data += 1
    assert (trainer.further_parts.base.digest() == before) == splits
    assert hasattr(trainer, "blueprint") == splits


@pytest.mark.parametrize("splits", [True, False])
def test_a_model_that_an_engine_cannot_split_is_refused(make_trainer, monkeypatch, splits):
    class Scalar(MarginSoftmax):
        def setup(self, trainer):
            self.offset = nn.Parameter(torch.tensor(1.0))

    monkeypatch.setattr(further_parts, "splits_weights", lambda accelerator: splits)
    with pytest.raises(ValueError, match=r"method.offset has the shape \(\)") if splits else nullcontext():
        make_trainer(method=Scalar())


@pytest.mark.parametrize("splits", [True, False])
def test_engines_split_weights_in_the_usual_layout(make_trainer, monkeypatch, splits):
    monkeypatch.setattr(further_parts, "splits_weights", lambda accelerator: splits)
    weight = make_trainer(channels_last=True).model.backbone.model.patch_embed.proj.weight
    assert weight.is_contiguous() == splits


def test_each_model_has_a_method_of_its_own(make_trainer):
    class Layered(MarginSoftmax):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(1, 1)

    trainer = make_trainer(method=Layered())
    parts, own = trainer.further_parts, trainer.method
    assert own is parts.method
    trainer.model_init = lambda: None
    parts.adopt(trainer.model)
    assert trainer.method is trainer.model.method and trainer.method.layer.weight is not own.layer.weight
    assert trainer.model.is_in_training
