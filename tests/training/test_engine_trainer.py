"""A trainer under an engine: which of transformers' ways it goes, with and without weights that are split."""

import math
from pathlib import Path
from pickle import UnpicklingError
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torch.distributed.fsdp import FSDPModule
from transformers import Trainer

from hf_face.training import FaceTrainer, engine_trainer
from hf_face.training import trainer as trainer_module
from hf_face.training.engine_optimizer import ZeroOptimizer
from hf_face.training.engine_trainer import EngineTrainer
from hf_face.training.engine_weights import without_weights


@pytest.fixture
def make(monkeypatch):
    """`make(splits, **attributes)`: a trainer without a model, which notes the calls of transformers' own methods."""

    def make(splits: bool = False, **attributes) -> EngineTrainer:
        trainer = EngineTrainer.__new__(EngineTrainer)
        trainer.calls, trainer.accelerator = [], None
        trainer.args = SimpleNamespace(should_save=True, max_grad_norm=0.5)
        trainer.is_deepspeed_enabled = trainer.is_fsdp_enabled = False
        vars(trainer).update(attributes)
        monkeypatch.setattr(engine_trainer, "splits_weights", lambda accelerator: splits)
        for name in (
            "save_model",
            "create_scheduler",
            "_clip_grad_norm",
            "_save_optimizer_and_scheduler",
            "_prepare_for_training",
            "_load_from_checkpoint",
            "_load_best_model",
            "_load_optimizer_and_scheduler",
        ):
            monkeypatch.setattr(
                Trainer, name, lambda self, *given, name=name: self.calls.append((name, *given)) or "transformers'"
            )
        monkeypatch.setattr(Trainer, "_get_grad_norm", lambda self, model, grad_norm=None: grad_norm)
        return trainer

    return make


def test_without_an_engine_everything_is_transformers_own(make, tmp_path):
    model = nn.ModuleDict({"backbone": nn.Linear(1, 1)})
    model.backbone = model["backbone"]
    trainer = make(model=model)
    assert trainer.whole_backbone() is model.backbone
    assert trainer.whole_state_dict("backbone").keys() == {"weight", "bias"}
    trainer.save_model("out", True)
    trainer._save_optimizer_and_scheduler("out")
    assert trainer._prepare_for_training(3, "loader", "checkpoint") == "transformers'"
    trainer._load_from_checkpoint("checkpoint")
    trainer._load_best_model()
    trainer._load_optimizer_and_scheduler("checkpoint")
    assert trainer.calls == [
        ("save_model", "out", True),
        ("_save_optimizer_and_scheduler", "out"),
        ("_prepare_for_training", 3, "loader", "checkpoint"),
        ("_load_from_checkpoint", "checkpoint", None),
        ("_load_best_model",),
        ("_load_optimizer_and_scheduler", "checkpoint"),
    ]


@pytest.mark.parametrize("should_save", [True, False])
def test_split_weights_are_saved_whole_by_one_rank(make, monkeypatch, tmp_path, should_save):
    saved = []
    trainer = make(
        splits=True,
        model=SimpleNamespace(_keys_to_ignore_on_save={"backbone.frozen"}),
        blueprint=without_weights(nn.Linear(1, 1)),
        optimizer="optimizer",
        lr_scheduler=SimpleNamespace(state_dict=lambda: {"last_epoch": 3}),
        _save=lambda folder, weights: saved.append((folder, weights)),
    )
    trainer.args.should_save = should_save
    whole = {"head.a": 1, "backbone.weight": torch.ones(1, 1), "backbone.bias": torch.ones(1), "backbone.frozen": 3}

    def gather(model, keep, without=("backbone.frozen",)):
        return {name: whole[name] for name in whole if name not in without} if keep else {}

    monkeypatch.setattr(engine_trainer, "whole_state_dict", gather)
    monkeypatch.setattr(engine_trainer, "whole_optimizer_state", lambda optimizer, keep: {"kept": keep})
    trainer.save_model(str(tmp_path))
    trainer._save_optimizer_and_scheduler(str(tmp_path))
    assert trainer.calls == []
    if not should_save:
        assert saved == [] and not any(tmp_path.iterdir()) and trainer.whole_backbone() is None
        return
    ((folder, weights),) = saved
    assert folder == str(tmp_path) and weights.keys() == {"head.a", "backbone.weight", "backbone.bias"}
    assert trainer.whole_backbone()(torch.ones(1, 1)).tolist() == [[2]]
    assert trainer.blueprint.weight.is_meta
    assert trainer.whole_state_dict("head") == {"a": 1}
    assert torch.load(tmp_path / "optimizer.pt") == {"kept": True}
    assert torch.load(tmp_path / "scheduler.pt") == {"last_epoch": 3}


@pytest.mark.parametrize("is_trained", [True, False])
@pytest.mark.parametrize(
    ("is_split", "indexed", "expected"), [(False, True, True), (False, False, False), (True, True, False)]
)
def test_split_weights_are_loaded_from_whole_ones(make, monkeypatch, tmp_path, is_split, indexed, expected, is_trained):
    """Class centers in files of their own are read, unless the ranks have split them again."""
    save_file({"backbone.a": torch.ones(1)}, tmp_path / "model-1.safetensors")
    save_file({"backbone.b": torch.ones(1)}, tmp_path / "model-2.safetensors")
    torch.save({"state": {0: "of the backbone"}}, tmp_path / "optimizer.pt")
    torch.save({"last_epoch": 3}, tmp_path / "scheduler.pt")
    if indexed:
        (tmp_path / "head.index.json").touch()
    loaded = {}
    monkeypatch.setattr(engine_trainer, "read_head", lambda head, folder: {"weight": torch.zeros(1)})
    monkeypatch.setattr(engine_trainer, "read_head_optimizer", lambda head, folder: "of the head")
    monkeypatch.setattr(engine_trainer, "load_weights", lambda model, weights, engine: loaded.update(weights=weights))
    monkeypatch.setattr(engine_trainer, "load_optimizer_state", lambda optimizer, state: loaded.update(state))
    model = SimpleNamespace(head="head")
    trainer = make(
        splits=True,
        model=model,
        model_wrapped=model,
        optimizer="optimizer",
        class_centers=SimpleNamespace(is_split=is_split),
        _number_of_head=1 if is_trained else None,
        lr_scheduler=SimpleNamespace(load_state_dict=loaded.update),
        state=SimpleNamespace(best_model_checkpoint=str(tmp_path)),
        _load_scaler=lambda checkpoint: loaded.update(scaler=checkpoint),
    )
    assert trainer._prepare_for_training(3, "loader", str(tmp_path)) == "transformers'"
    assert trainer.calls == [("_prepare_for_training", 3, "loader", None)]
    assert loaded.pop("weights").keys() == {"backbone.a", "backbone.b"} | ({"head.weight"} if expected else set())
    head = {1: "of the head"} if expected and is_trained else {}
    assert loaded == {"state": {0: "of the backbone", **head}, "last_epoch": 3, "scaler": str(tmp_path)}
    trainer._load_best_model()
    assert loaded["weights"].keys() >= {"backbone.a", "backbone.b"}
    loaded.clear()
    trainer._prepare_for_training(3, "loader", None)
    trainer._load_optimizer_and_scheduler(None)
    assert loaded == {} and trainer.calls[-1] == ("_load_optimizer_and_scheduler", None)
    (tmp_path / "optimizer.pt").unlink()
    with pytest.raises(ValueError, match=r"has no optimizer.pt: the optimizer was not saved"):
        trainer._load_optimizer_and_scheduler(str(tmp_path))


def test_an_engine_takes_a_model_once(make):
    """It would start with another optimizer than the one that it has replaced, and some ranks would wait forever."""
    split = nn.Linear(1, 1)
    split.__class__ = type("FSDPLinear", (FSDPModule, nn.Linear), {})
    for model, wrapped in ((nn.Linear(1, 1), "engine"), (split, split)):
        trainer = make(splits=True, model=model, model_wrapped=wrapped)
        with pytest.raises(ValueError, match="a trainer trains once: make another one"):
            trainer._prepare_for_training(3, "loader", None)
        assert trainer.has_engine and not trainer.calls


def test_before_training_the_model_is_evaluated_where_an_engine_would_move_it(make, monkeypatch):
    monkeypatch.setattr(trainer_module, "splits_weights", lambda accelerator: True)
    trainer = make(splits=True, model=nn.Linear(1, 1))
    trainer.model_wrapped, trainer.args.device = trainer.model, "meta"
    assert FaceTrainer.evaluated_model.fget(trainer) is trainer.model and trainer.model.weight.is_meta
    trainer = make(splits=True, model=nn.Linear(1, 1), model_wrapped="engine")
    assert FaceTrainer.evaluated_model.fget(trainer) == "engine" and not trainer.model.weight.is_meta


class Harmful:
    """Runs when it is unpickled."""

    def __init__(self, mark: Path):
        self.mark = mark

    def __reduce__(self):
        return Path.touch, (self.mark,)


@pytest.mark.parametrize("name", ["optimizer.pt", "scheduler.pt"])
def test_no_file_of_a_checkpoint_is_unpickled_freely(make, monkeypatch, tmp_path, name):
    torch.save({"state": {}}, tmp_path / "optimizer.pt")
    torch.save(Harmful(tmp_path / "mark"), tmp_path / name)
    monkeypatch.setattr(engine_trainer, "load_optimizer_state", lambda optimizer, state: None)
    centers, scheduler = SimpleNamespace(is_split=True), SimpleNamespace(load_state_dict=lambda state: None)
    trainer = make(splits=True, optimizer=None, class_centers=centers, lr_scheduler=scheduler)
    with pytest.raises(UnpicklingError, match="Weights only load failed"):
        trainer._load_optimizer_and_scheduler(str(tmp_path))
    assert not (tmp_path / "mark").exists()


@pytest.mark.parametrize(
    ("is_apart", "deepspeed", "max_grad_norm", "own"),
    [
        (False, False, 0.5, None),
        (True, True, 0.5, None),
        (False, True, 0.5, None),
        (True, False, 0.5, 0.5),
        (True, False, 0.0, math.inf),
    ],
)
def test_gradients_that_are_split_or_sparse_are_clipped_by_the_class_centers(
    make, is_apart, deepspeed, max_grad_norm, own
):
    clipped = []
    centers = SimpleNamespace(is_apart=is_apart, clip_grad_norm=lambda model, norm: clipped.append(norm) or 2.0)
    trainer = make(class_centers=centers, is_deepspeed_enabled=deepspeed)
    trainer.accelerator = SimpleNamespace(unscale_gradients=lambda: None)
    trainer.args.max_grad_norm = max_grad_norm
    assert trainer._clip_grad_norm("model") == ("transformers'" if own is None else 2.0)
    assert clipped == ([] if own is None else [own])
    assert trainer._get_grad_norm("model", 7.0) == 7.0 and len(clipped) == (own is not None)
    assert trainer._get_grad_norm("model") == (None if not is_apart else trainer._clip_grad_norm("model"))


@pytest.mark.parametrize("given", [None, (torch.optim.SGD, {"lr": 0.25})])
def test_deepspeed_leaves_the_class_centers_to_an_optimizer_of_their_own(make, given):
    taken = []
    model = SimpleNamespace(head="head", take_head_apart=lambda: taken.append("head"))
    centers = SimpleNamespace(take_from=lambda optimizer, create: taken.append(create([nn.Parameter(torch.ones(1))])))
    trainer = make(model=model, class_centers=centers, optimizer=None, is_deepspeed_enabled=True)
    trainer.optimizer_cls_and_kwargs = given
    trainer.get_optimizer_cls_and_kwargs = lambda args: (torch.optim.AdamW, {"lr": 0.5})
    trainer._leave_head_alone()
    assert type(taken[0]) is (torch.optim.AdamW if given is None else torch.optim.SGD)
    assert taken[0].param_groups[0]["lr"] == (0.5 if given is None else 0.25)
    assert taken[1:] == ["head"]


def test_deepspeeds_optimizer_is_wrapped_once(make, monkeypatch):
    monkeypatch.setattr("accelerate.optimizer.AcceleratorState", lambda: None)
    engine = SimpleNamespace(engine=SimpleNamespace(gradient_clipping=lambda: 0.5))
    trainer = make(is_deepspeed_enabled=True, optimizer=SimpleNamespace(optimizer="zero"), _optimized=[])
    trainer.accelerator = SimpleNamespace(deepspeed_engine_wrapped=engine)
    trainer.class_centers = SimpleNamespace(own_optimizer=None)
    trainer.create_scheduler(3)
    wrapped = trainer.optimizer
    assert isinstance(wrapped, ZeroOptimizer) and (wrapped.zero, wrapped.max_norm) == ("zero", 0.5)
    trainer.create_scheduler(3)
    assert trainer.optimizer is wrapped


@pytest.mark.parametrize("uses_head", [True, False])
def test_the_class_centers_number_in_the_optimizers_state(make_trainer, uses_head):
    trainer = make_trainer(partial_fc_sample_rate=0.5)
    trainer.model.head.requires_grad_(uses_head)
    optimizer = trainer.create_optimizer()
    weights = [weight for group in optimizer.param_groups for weight in group["params"]]
    number = next((i for i, weight in enumerate(weights) if weight is trainer.model.head.weight), None)
    assert trainer._number_of_head == number and (number is not None) == uses_head
