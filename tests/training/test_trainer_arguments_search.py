"""What the Trainer's arguments for several trainings of fresh models do; each test is marked with those it shows."""

import sys
from importlib.machinery import ModuleSpec
from types import ModuleType, SimpleNamespace

import pytest
import torch
from transformers import TrainerCallback

from hf_face import FaceRecognitionModel


def losses(trainer) -> list[float]:
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


@pytest.mark.shows("model_init")
def test_each_training_has_a_fresh_model(make_trainer):
    config = make_trainer().model.config
    parameters = {"model": None, "model_init": lambda: FaceRecognitionModel(config)}
    trainer = make_trainer(parameters=parameters, ema_decay=0.5, head_learning_rate=0.5, channels_last=True)
    trainer.train()
    first, model = losses(trainer), trainer.model
    trainer.train()
    assert losses(trainer) == first
    assert trainer.model is not model
    assert trainer.model.method is trainer.method and trainer.class_centers.head is trainer.model.head
    assert trainer.ema.model is trainer.model
    assert sum(type(each).__name__ == "WeightAverage" for each in trainer.callback_handler.callbacks) == 1
    with pytest.raises(ValueError, match="optimizers= hold the weights of one model: with model_init="):
        make_trainer(parameters=parameters | {"optimizers": (torch.optim.SGD(model.parameters()), None)})


class Trial(SimpleNamespace):
    """Stands in for optuna's."""


class Study:
    """Stands in for optuna's: two trials."""

    def __init__(self, direction, **settings):
        self.direction, self.trials = direction, []

    def optimize(self, objective, n_trials, **settings):
        for number in range(n_trials):
            trial = Trial(number=number, params={"learning_rate": 0.0 if number else 0.01})
            trial.value = objective(trial)
            self.trials.append(trial)

    def _is_multi_objective(self):
        return False

    @property
    def best_trial(self):
        choose = max if self.direction == "maximize" else min
        return choose(self.trials, key=lambda trial: trial.value)


@pytest.mark.shows("hp_space", "compute_objective", "n_trials", "direction", "backend", "hp_name", "trial", "kwargs")
def test_settings_are_searched_for(make_trainer, monkeypatch, tmp_path):
    studies: list[Study] = []
    optuna = ModuleType("optuna")
    optuna.__spec__ = ModuleSpec("optuna", None)
    optuna.Trial, optuna.TrialPruned, optuna.trial = Trial, StopIteration, SimpleNamespace(BaseTrial=Trial)
    optuna.create_study = lambda **settings: studies.append(Study(**settings)) or studies[-1]
    monkeypatch.setitem(sys.modules, "optuna", optuna)
    monkeypatch.setattr("transformers.hyperparameter_search.OptunaBackend.is_available", lambda *_: True)
    config, rates = make_trainer().model.config, []
    trainer = make_trainer(
        parameters={"model": None, "model_init": lambda trial: FaceRecognitionModel(config)},
        max_steps=2,
        save_strategy="steps",
        save_steps=2,
    )

    def space(trial):
        return {**trial.params, "ema_decay": 0.5, "partial_fc_sample_rate": 0.5, "optim": "sgd"}

    trainer.add_callback(
        SimpleCallback(lambda: rates.append((trainer.args.learning_rate, trainer.model.head.sample_rate, trainer.ema)))
    )
    best = trainer.hyperparameter_search(
        hp_space=space, n_trials=2, backend="optuna", hp_name=lambda trial: f"trial-{trial.number}"
    )
    assert [(rate, sampled) for rate, sampled, _ in rates] == [(0.01, 0.5), (0.0, 0.5)]
    assert rates[0][2] is not rates[1][2]
    assert studies[0].direction == "maximize"  # accuracy, the primary metric of the first protocol
    assert best.objective == max(trial.value for trial in studies[0].trials) <= 1
    assert (tmp_path / "run" / "trial-1" / "checkpoint-2").is_dir()
    trainer.hyperparameter_search(space, lambda metrics: metrics["eval_orl_eer"], n_trials=1, backend="optuna")
    assert studies[1].direction == "minimize"
    trainer.hyperparameter_search(
        space, compute_objective=lambda metrics: 1.0, direction="maximize", n_trials=1, backend="optuna"
    )
    assert studies[2].direction == "maximize"


class SimpleCallback(TrainerCallback):
    def __init__(self, call):
        self.call = call

    def on_train_begin(self, args, state, control, **kwargs):
        self.call()
