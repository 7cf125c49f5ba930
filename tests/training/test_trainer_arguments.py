"""
Every argument of transformers' Trainer works or is refused: the table, and what shows each line of it.

A test is marked with the arguments that it shows to work; others are shown elsewhere. `docs/trainer_arguments.md` is
made of this: `python tests/training/test_trainer_arguments.py`.
"""

import ast
import inspect
import re
from dataclasses import fields
from pathlib import Path

import pytest
from transformers import Trainer, TrainingArguments, default_data_collator

from hf_face import FaceTrainer
from hf_face.training.refused import ALLOWED, PARAMETERS, SETTINGS, check_settings

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "trainer_arguments.md"
METHODS = ("__init__", "train", "evaluate", "predict", "hyperparameter_search")
NEEDS = {  # what is missing here, so that only what Trainer is handed is shown
    "tf32": "a GPU, where transformers refuses it",
    "fp16": "a GPU",
    "optim_target_modules": "galore-torch and apollo-torch; refused with other optimizers",
    "ddp_backend": "several processes",
    "ddp_bucket_cap_mb": "several processes",
    "ddp_broadcast_buffers": "several processes",
    "ddp_find_unused_parameters": "several processes",
    "ddp_static_graph": "several processes",
    "ddp_timeout": "several processes",
    "log_on_each_node": "several machines",
    "save_on_each_node": "several machines",
    "log_level_replica": "several processes",
    "project": "trackio, with a stand-in",
    "trackio_space_id": "trackio, with a stand-in",
    "trackio_bucket_id": "trackio, with a stand-in",
    "trackio_static_space_id": "trackio, with a stand-in",
    "backend": "optuna, with a stand-in",
}
INPUTS = "test_trainer_inputs.py"
ELSEWHERE = {
    "output_dir": "test_divergence.py::test_a_run_stops_in_the_step_where_it_diverges",
    "per_device_train_batch_size": "test_trainer.py::test_accumulated_batches_step_like_one_large_batch",
    "gradient_accumulation_steps": "test_trainer.py::test_accumulated_batches_step_like_one_large_batch",
    "num_train_epochs": "test_trainer.py::test_a_finished_run_is_not_trained_further",
    "max_steps": f"{INPUTS}::test_no_steps_train_nothing",
    "learning_rate": "test_divergence.py::test_a_learning_rate_without_bounds_is_noticed",
    "lr_scheduler_type": "test_trainer.py::test_schedules_warm_up_and_come_down",
    "warmup_steps": "test_trainer.py::test_schedules_warm_up_and_come_down",
    "optim": "test_trainer.py::test_sgd_on_a_gpu_decays_weights_without_a_copy_of_the_gradient",
    "optim_args": "test_trainer.py::test_sgd_on_a_gpu_decays_weights_without_a_copy_of_the_gradient",
    "weight_decay": "test_trainer.py::test_the_class_centers_have_their_own_learning_rate_and_weight_decay",
    "max_grad_norm": "test_divergence.py::test_a_run_stops_in_the_step_where_it_diverges",
    "bf16": "test_trainer.py::test_ways_to_run_that_change_speed_and_memory_only",
    "fp16": "test_trainer_refusals.py::test_a_launcher_that_settings_cannot_work_with_is_refused",
    "gradient_checkpointing": "test_trainer.py::test_ways_to_run_that_change_speed_and_memory_only",
    "gradient_checkpointing_kwargs": f"{INPUTS}::test_adapters_learn_with_checkpointed_gradients",
    "eval_strategy": "test_trainer.py::test_evaluation_gives_verification_metrics_to_choose_the_best_model_by",
    "eval_steps": "test_trainer.py::test_evaluation_gives_verification_metrics_to_choose_the_best_model_by",
    "save_strategy": f"{INPUTS}::test_a_metric_knows_its_direction",
    "save_steps": "test_trainer.py::test_a_resumed_run_repeats_the_uninterrupted_one_exactly",
    "load_best_model_at_end": f"{INPUTS}::test_the_best_model_has_the_smallest_error",
    "metric_for_best_model": f"{INPUTS}::test_a_metric_knows_its_direction",
    "greater_is_better": f"{INPUTS}::test_a_metric_knows_its_direction",
    "ignore_data_skip": "test_streaming_training.py::"
    "test_a_checkpoint_of_another_number_of_workers_is_refused_unless_data_is_not_to_be_skipped",
    "seed": f"{INPUTS}::test_the_draws_of_partial_fc_follow_the_seed",
    "use_cpu": f"{INPUTS}::test_transformers_arguments_are_converted",
    "dataloader_drop_last": f"{INPUTS}::test_a_last_batch_of_one_image_is_refused_where_batch_norm_would_fail",
    "hub_model_id": "../hub/test_trainer.py::test_a_run_becomes_a_published_model_with_its_own_figures",
    "hub_strategy": "../hub/test_trainer.py::test_each_checkpoint_is_one_commit_with_model_and_card",
    "hub_always_push": "../hub/test_trainer.py::test_training_goes_on_while_a_checkpoint_is_sent",
    "hub_revision": "../hub/test_trainer.py::test_a_branch_is_made_before_training",
    "fsdp": "test_engines_head.py::test_every_engine_trains_as_plain_data_parallelism",
    "fsdp_config": "test_engines.py::test_fsdp_that_leaves_loading_to_one_rank_is_refused",
    "deepspeed": "test_engines_head.py::test_every_engine_trains_as_plain_data_parallelism",
    "resume_from_checkpoint": "test_trainer.py::test_a_resumed_run_repeats_the_uninterrupted_one_exactly",
    "logging_nan_inf_filter": "test_divergence.py::test_a_run_stops_in_the_step_where_it_diverges",
    "model": f"{INPUTS}::test_a_backbone_alone_is_told_how_to_get_a_head",
    "args": f"{INPUTS}::test_transformers_arguments_are_converted",
    "train_dataset": f"{INPUTS}::test_people_are_taken_as_load_identities_takes_them",
    "eval_dataset": f"{INPUTS}::test_protocols_have_the_names_of_their_keys",
    "processing_class": f"{INPUTS}::test_the_image_processor_has_two_names_and_the_collator_none",
    "metric_key_prefix": f"{INPUTS}::test_one_protocol_is_run_by_its_name",
    "test_dataset": f"{INPUTS}::test_predictions_are_embeddings",
}


def names_shown(test: ast.FunctionDef) -> list[str]:
    """The arguments that a test is marked with: `@pytest.mark.shows("seed", ...)`."""
    marks = [mark for mark in test.decorator_list if ast.unparse(mark).startswith("pytest.mark.shows(")]
    return [ast.literal_eval(name) for mark in marks for name in mark.args]


SHOWN = {
    name: f"{file.name}::{test.name}"
    for file in sorted(Path(__file__).parent.glob("test_*.py"))
    for test in ast.parse(file.read_text(encoding="utf-8")).body
    if isinstance(test, ast.FunctionDef)
    for name in names_shown(test)
}


# What is refused

REFUSED_VALUES = {
    "average_tokens_across_devices": False,
    "debug": "tpu_metrics_debug",
    "eval_do_concat_batches": False,
    "eval_accumulation_steps": 2,
    "include_for_metrics": ["inputs"],
    "label_names": ["who"],
    "label_smoothing_factor": 0.3,
    "length_column_name": "size",
    "liger_kernel_config": {"rope": True},
    "neftune_noise_alpha": 5.0,
    "optim_target_modules": ["qkv"],
    "train_sampling_strategy": "group_by_length",
}


@pytest.mark.parametrize("name", sorted(SETTINGS))
def test_settings_without_effect_are_refused_with_the_reason(make_trainer, name):
    if name == "parallelism_config":
        args = make_trainer().args
        args.parallelism_config = object()
        with pytest.raises(
            ValueError, match=r"parallelism_config=.* it splits language models; use shard_head or FSDP"
        ):
            check_settings(args)
        return
    with pytest.raises(ValueError, match=re.escape(f" is not supported: {SETTINGS[name]}.")) as raised:
        make_trainer(**{name: REFUSED_VALUES.get(name, True)})
    assert str(raised.value).startswith(f"{name}=")


@pytest.mark.parametrize("name", sorted(PARAMETERS))
def test_parameters_without_effect_are_refused_with_the_way_out(make_trainer, name):
    with pytest.raises(ValueError, match=re.escape(f"{name}= is not supported: {PARAMETERS[name]}.")):
        if name == "ignore_keys":
            make_trainer().evaluate(ignore_keys=["logits"])
        elif name == "ignore_keys_for_eval":
            make_trainer().train(ignore_keys_for_eval=["logits"])
        else:
            make_trainer(parameters={name: default_data_collator})


def test_predictions_have_no_keys_to_ignore(make_trainer, faces):
    with pytest.raises(ValueError, match="ignore_keys= is not supported"):
        make_trainer().predict(faces[0], ignore_keys=["logits"])


# The table


def arguments() -> dict[str, list[str]]:
    """The names of transformers' arguments, by what takes them."""
    taken = {"TrainingArguments": [each.name for each in fields(TrainingArguments)]}
    for method in METHODS:
        title = "Trainer" if method == "__init__" else f"Trainer.{method}"
        taken[title] = [name for name in inspect.signature(getattr(Trainer, method)).parameters if name != "self"]
    return taken


def make_page() -> str:
    """The text of docs/trainer_arguments.md."""
    lines = [
        "# The Trainer's arguments",
        "",
        "What `FaceTrainer` does with every argument of transformers' `Trainer` and `TrainingArguments`. The test that",
        "shows it made this page: `python tests/training/test_trainer_arguments.py`.",
    ]
    for title, names in arguments().items():
        lines += ["", f"## `{title}`", "", "| argument | | why not, or the test that shows it |", "|---|---|---|"]
        lines += [f"| `{name}` | {' | '.join(describe(name))} |" for name in names]
    return "\n".join(lines) + "\n"


def describe(name: str) -> tuple[str, str]:
    shown = (SHOWN | ELSEWHERE).get(name, "").partition("::")[2]
    words = shown.removeprefix("test_").replace("_", " ")
    if name in (*SETTINGS, *PARAMETERS) and name not in NEEDS:
        reason = SETTINGS.get(name) or PARAMETERS[name]
        return "in part" if name in ALLOWED else "refused", reason
    return "works", f"{words} (as far as it can be seen without {NEEDS[name]})" if name in NEEDS else words


def test_every_argument_is_in_the_table():
    known = {*SHOWN, *ELSEWHERE, *SETTINGS, *PARAMETERS}
    for title, names in arguments().items():
        assert set(names) - known == set(), f"new in {title}: show that it works, or refuse it in training/refused.py"
    both = ((SHOWN.keys() | ELSEWHERE.keys()) & (SETTINGS.keys() | PARAMETERS.keys())) - ALLOWED.keys()
    assert both == {"optim_target_modules"}


def test_what_shows_an_argument_to_work_is_there_and_uses_it():
    for name, place in ELSEWHERE.items():
        file, _, test = place.partition("::")
        source = (Path(__file__).parent / file).read_text(encoding="utf-8")
        (node,) = [each for each in ast.parse(source).body if isinstance(each, ast.FunctionDef) and each.name == test]
        first = min(line.lineno for line in [node, *node.decorator_list])
        text = "\n".join(source.splitlines()[first - 1 : node.end_lineno])
        assert re.search(rf"\b{name}\b", text) or name in ("model", "args", "logging_nan_inf_filter", "fsdp_config"), (
            name
        )


def test_our_own_trainer_takes_what_transformers_takes():
    for method in METHODS[1:]:
        ours, theirs = (list(inspect.signature(getattr(each, method)).parameters) for each in (FaceTrainer, Trainer))
        assert set(theirs) - set(ours) <= {"backend", "hp_name"}, method  # in kwargs


@pytest.mark.skipif(
    "activation_checkpointing" not in {each.name for each in fields(TrainingArguments)}, reason="an older transformers"
)
def test_the_page_is_up_to_date():
    assert PAGE.read_text(encoding="utf-8") == make_page(), "run python tests/training/test_trainer_arguments.py"


if __name__ == "__main__":
    PAGE.write_text(make_page(), encoding="utf-8")
