"""The Trainer: batches, optimizer, evaluation, saving and resuming."""

import inspect
import json
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from tiny_models import CASES
from transformers import AutoImageProcessor, AutoModel, Trainer

from hf_face import (
    AutoModelForFaceRecognition,
    FaceRecognitionConfig,
    FaceRecognitionModel,
    FaceTrainer,
    FaceTrainingArguments,
)
from hf_face.data import select_identities
from hf_face.evaluation import AllPairsEvaluator
from hf_face.training import last_complete_checkpoint
from hf_face.training.draws import RepeatableDraws
from hf_face.training.engine_trainer import EngineTrainer
from hf_face.training.publishing_trainer import PublishingTrainer
from hf_face.training.safe_trainer import SafeTrainer


def losses(trainer) -> list[float]:
    """The loss of every step."""
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


def test_training_learns_and_reports_norms_and_cosines(make_trainer):
    trainer = make_trainer(max_steps=12)
    trainer.train()
    first, last = losses(trainer)[0], losses(trainer)[-1]
    assert last < first
    step = trainer.state.log_history[0]
    assert step["embedding_norm"] > 0
    assert -1 <= step["target_cosine"] <= 1


def test_the_class_centers_have_their_own_learning_rate_and_weight_decay(make_trainer):
    trainer = make_trainer(head_learning_rate=0.5, head_weight_decay=0.25, weight_decay=0.125)
    groups = {id(p): group for group in trainer.create_optimizer().param_groups for p in group["params"]}
    assert len(groups) == sum(1 for _ in trainer.model.parameters())
    centers = groups[id(trainer.model.head.weight)]
    assert (centers["lr"], centers["weight_decay"]) == (0.5, 0.25)
    backbone = trainer.model.backbone.model
    for weight in (backbone.patch_embed.proj.weight, backbone.head.weight):
        assert (groups[id(weight)]["lr"], groups[id(weight)]["weight_decay"]) == (0.01, 0.125)


@pytest.mark.parametrize(("device", "fused"), [("cuda", True), ("cpu", None)])
def test_sgd_on_a_gpu_decays_weights_without_a_copy_of_the_gradient(make_trainer, monkeypatch, device, fused):
    trainer = make_trainer(optim="sgd", optim_args="momentum=0.9")
    monkeypatch.setattr(FaceTrainingArguments, "device", torch.device(device))
    optimizer, kwargs = trainer.get_optimizer_cls_and_kwargs(trainer.args, trainer.model)
    assert optimizer is torch.optim.SGD
    assert (kwargs["momentum"], kwargs.get("fused")) == (0.9, fused)


def test_a_step_counts_no_weights(make_trainer):
    """Trainer does to multiply them with the number of tokens, which takes as long as a quarter of a GPU's step."""
    trainer = make_trainer(max_steps=1)
    trainer.train()
    assert trainer.state.total_flos == 0


@pytest.mark.parametrize("pin_memory", [True, False])
def test_batches_are_copied_while_the_device_computes(make_trainer, pin_memory):
    trainer = make_trainer(dataloader_pin_memory=pin_memory)
    assert trainer.accelerator.non_blocking == pin_memory  # other memory could be reused before it is copied
    assert not make_trainer(accelerator_config={"non_blocking": False}).accelerator.non_blocking


def test_pixels_are_normalized_as_the_image_processor_does_and_augmented_in_training_only(make_trainer, faces):
    trainer = make_trainer()
    batch = next(iter(trainer.get_train_dataloader()))
    assert batch["pixel_values"].dtype == torch.uint8
    expected = trainer.processing_class(list(batch["pixel_values"]), return_tensors="pt").pixel_values
    trainer.model.eval()
    prepared = trainer.prepare_batch(batch)
    torch.testing.assert_close(prepared["pixel_values"], expected)
    assert torch.equal(prepared["images"], batch["pixel_values"])
    trainer.model.train()
    augmented = trainer.prepare_batch(batch)
    flipped = (augmented["images"] != prepared["images"]).flatten(1).any(1)
    assert 0 < flipped.sum() < len(flipped)
    torch.testing.assert_close(augmented["pixel_values"], trainer.normalize(augmented["images"]))


def test_mixed_precision_does_not_reach_the_augmentation(make_trainer):
    trainer = make_trainer(augmentation=[{"random_affine": {"degrees": 20}}])
    batch = next(iter(trainer.get_train_dataloader()))
    trainer.model.train()
    images = trainer.prepare_batch(batch)["images"]
    trainer._draws = RepeatableDraws(trainer.args)  # the same draws again
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(trainer.prepare_batch(batch)["images"], images)


@pytest.mark.parametrize("ema_decay", [None, 0.5])
def test_a_resumed_run_repeats_the_uninterrupted_one_exactly(make_trainer, ema_decay):
    whole = make_trainer(max_steps=24, save_strategy="steps", save_steps=7, ema_decay=ema_decay)
    whole.train()
    resumed = make_trainer(max_steps=24, ema_decay=ema_decay)
    resumed.train(resume_from_checkpoint=str(Path(whole.args.output_dir, "checkpoint-7")))
    assert losses(resumed) == losses(whole)
    for name, weight in whole.backbone.state_dict().items():
        assert torch.equal(weight, resumed.backbone.state_dict()[name]), name


@pytest.mark.parametrize("length", [{"max_steps": 4}, {"max_steps": -1, "num_train_epochs": 1}])
def test_a_finished_run_is_not_trained_further(make_trainer, length):
    whole = make_trainer(save_strategy="epoch" if "num_train_epochs" in length else "steps", save_steps=4, **length)
    whole.train()
    again = make_trainer(**length)
    steps = again.train(resume_from_checkpoint=last_complete_checkpoint(whole.args.output_dir)).global_step
    assert steps == whole.state.global_step
    for name, weight in whole.model.state_dict().items():
        assert torch.equal(weight, again.model.state_dict()[name]), name


def test_a_checkpoint_that_was_not_written_to_its_end_is_passed_over(make_trainer, tmp_path):
    trainer = make_trainer(max_steps=4, save_strategy="steps", save_steps=2)
    trainer.train()
    run = Path(trainer.args.output_dir)
    assert last_complete_checkpoint(run) == str(run / "checkpoint-4")
    state = (run / "checkpoint-4" / "trainer_state.json").read_text()
    (run / "checkpoint-4" / "trainer_state.json").write_text(state[: len(state) // 2])
    assert last_complete_checkpoint(run) == str(run / "checkpoint-2")
    (run / "checkpoint-2" / "trainer_state.json").unlink()
    assert last_complete_checkpoint(run) is None


def test_the_average_of_the_weights_is_what_is_evaluated_and_saved(make_trainer, tmp_path):
    trainer = make_trainer(ema_decay=0.5, max_steps=3, save_strategy="steps", save_steps=3)
    start = {name: weight.clone() for name, weight in trainer.model.backbone.state_dict().items()}
    seen = []
    step = trainer.ema.on_step_end
    trainer.ema.on_step_end = lambda *args, **kwargs: (
        seen.append({name: weight.clone() for name, weight in trainer.model.backbone.state_dict().items()}),
        step(*args, **kwargs),
    )[1]
    trainer.train()
    name = "model.patch_embed.proj.weight"
    assert not torch.equal(start[name], seen[0][name])
    expected = 0.25 * seen[0][name] + 0.25 * seen[1][name] + 0.5 * seen[2][name]
    with trainer.averaged_weights():
        torch.testing.assert_close(trainer.evaluated_model.state_dict()[name], expected)
    torch.testing.assert_close(trainer.model.backbone.state_dict()[name], seen[2][name])
    trainer.save_model(str(tmp_path / "saved"))
    checkpoint = Path(trainer.args.output_dir, "checkpoint-3")
    for model in (
        AutoModel.from_pretrained(tmp_path / "saved"),
        AutoModelForFaceRecognition.from_pretrained(checkpoint).backbone,
    ):
        torch.testing.assert_close(model.state_dict()[name], expected)


def test_evaluation_gives_verification_metrics_to_choose_the_best_model_by(make_trainer, tmp_path):
    trainer = make_trainer(
        max_steps=6,
        eval_strategy="steps",
        eval_steps=2,
        save_strategy="steps",
        save_steps=2,
        metric_for_best_model="orl_accuracy",
        load_best_model_at_end=True,
    )
    trainer.train()
    evaluations = {e["step"]: e["eval_orl_accuracy"] for e in trainer.state.log_history if "eval_orl_accuracy" in e}
    assert sorted(evaluations) == [2, 4, 6]
    assert trainer.state.best_metric == max(evaluations.values())
    metrics = trainer.evaluate(figures_dir=tmp_path / "figures")
    assert metrics["eval_orl_accuracy"] == trainer.state.best_metric
    assert (tmp_path / "figures" / "orl_roc.png").stat().st_size > 0


def test_the_saved_folder_gives_the_backbone_with_its_margin_on_record(make_trainer, tmp_path):
    trainer = make_trainer(margin="cosface")
    trainer.train()
    trainer.save_model()
    folder = trainer.args.output_dir
    model = AutoModel.from_pretrained(folder).eval()
    assert model.config.margin == {"name": "cosface", "scale": 64.0, "sub_centers": 1}
    assert AutoImageProcessor.from_pretrained(folder).size == {"height": 32, "width": 32}
    pixels = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        expected = trainer.model.backbone.eval()(pixels).pooler_output
        assert torch.equal(model(pixels).pooler_output, expected)


def test_accumulated_batches_step_like_one_large_batch(make_trainer):
    large = make_trainer(per_device_train_batch_size=16, max_steps=5, augmentation=None)
    small = make_trainer(per_device_train_batch_size=4, gradient_accumulation_steps=4, max_steps=5, augmentation=None)
    large.train()
    small.train()
    np.testing.assert_allclose(losses(small), losses(large), rtol=1e-4)


@pytest.mark.parametrize("settings", [{"bf16": True}, {"channels_last": True}, {"gradient_checkpointing": True}])
def test_ways_to_run_that_change_speed_and_memory_only(make_trainer, settings):
    plain, other = make_trainer(augmentation=None), make_trainer(augmentation=None, **settings)
    plain.train()
    other.train()
    np.testing.assert_allclose(losses(other), losses(plain), rtol=0.02 if "bf16" in settings else 1e-4)


@pytest.mark.parametrize("frozen", [True, False])
def test_frozen_batch_norms_keep_their_statistics(make_trainer, frozen):
    config = FaceRecognitionConfig(backbone_config=CASES["mobilefacenet"][0], num_identities=30)
    model = {"model": FaceRecognitionModel(config)}
    trainer = make_trainer(parameters=model, max_steps=1, per_device_train_batch_size=4, freeze_batch_norm=frozen)
    before = {name: value.clone() for name, value in trainer.model.state_dict().items()}
    trainer.train()
    changed = {name for name, value in trainer.model.state_dict().items() if not torch.equal(value, before[name])}
    statistics = {name for name in before if name.endswith("running_mean")}
    assert statistics and statistics.isdisjoint(changed) == frozen
    assert any(name.startswith("backbone.") and name.endswith("weight") for name in changed)


@pytest.mark.parametrize("schedule", ["cosine", "polynomial"])
def test_schedules_warm_up_and_come_down(make_trainer, schedule):
    trainer = make_trainer(max_steps=6, lr_scheduler_type=schedule, warmup_steps=2)
    trainer.train()
    rates = [entry["learning_rate"] for entry in trainer.state.log_history if "loss" in entry]
    assert rates[0] < rates[1] < rates[2] == 0.01
    assert rates[-1] < rates[-2] < 0.01


def test_a_stream_trains_as_it_comes(make_trainer, faces):
    people = select_identities(faces[0], num_identities=6)
    trainer = make_trainer(train_dataset=people.to_iterable_dataset(), max_steps=3, augmentation=None)
    stored = make_trainer(train_dataset=people, max_steps=3, augmentation=None)
    stored._get_train_sampler = lambda dataset=None: torch.utils.data.SequentialSampler(stored.train_dataset)
    trainer.train()
    stored.train()
    assert losses(trainer) == losses(stored)


def test_metrics_are_json(make_trainer, tmp_path):
    trainer = make_trainer(max_steps=1)
    trainer.train()
    trainer.save_metrics("eval", trainer.evaluate())
    saved = json.loads(Path(trainer.args.output_dir, "eval_results.json").read_text())
    assert 0 <= saved["eval_orl_accuracy"] <= 1


OVERRIDDEN = {
    "_clip_grad_norm",
    "_get_grad_norm",
    "_load_best_model",
    "_load_from_checkpoint",
    "_load_optimizer_and_scheduler",
    "_maybe_log_save_evaluate",
    "_prepare_for_training",
    "_push_from_checkpoint",
    "_save_checkpoint",
    "_save_optimizer_and_scheduler",
    "_save_rng_state",
}


def test_few_private_methods_of_the_trainer_are_overridden_and_are_still_there():
    """Of transformers' `Trainer` only its public methods are a promise: a new version may rename the others."""
    for name in OVERRIDDEN:
        assert hasattr(Trainer, name), f"transformers {transformers.__version__} has no Trainer.{name} any more"
        ours, theirs = (inspect.signature(getattr(cls, name)).parameters for cls in (FaceTrainer, Trainer))
        assert list(ours) == list(theirs), f"transformers {transformers.__version__} calls Trainer.{name} otherwise"
    chain = FaceTrainer, PublishingTrainer, SafeTrainer, EngineTrainer
    assert FaceTrainer.__mro__[:5] == (*chain, Trainer)
    own = {name for cls in chain for name in vars(cls)}
    private = {name for name in own if name.startswith("_") and not name.startswith("__")}
    assert {name for name in private if hasattr(Trainer, name)} == OVERRIDDEN


def test_the_best_model_is_chosen_by_the_first_protocols_primary_metric(make_trainer, faces):
    evaluator = AllPairsEvaluator(faces[1].images, fars=[0.1])
    trainer = make_trainer(
        eval_dataset=[evaluator, faces[1]],
        max_steps=2,
        eval_strategy="steps",
        eval_steps=1,
        save_strategy="steps",
        save_steps=1,
        load_best_model_at_end=True,
    )
    assert trainer.args.metric_for_best_model == "eval_all_pairs_tar@far=1e-1"
    trainer.train()
    figures = [entry["eval_all_pairs_tar@far=1e-1"] for entry in trainer.state.log_history if "eval_runtime" in entry]
    assert trainer.state.best_metric == max(figures)


def test_two_protocols_of_one_name_are_refused(make_trainer, faces):
    with pytest.raises(ValueError, match="2 protocols of this run are called 'orl'"):
        make_trainer(eval_dataset=[faces[1], faces[1]])
