"""What transformers' Trainer takes that has no meaning here: refused before training, with the way out."""

from dataclasses import fields
from typing import Any

from transformers import TrainingArguments
from transformers.debug_utils import DebugOption
from transformers.training_args import OptimizerNames

_NO_TOKENS = "it is about tokens, and images of faces have none"
_NO_OUTPUTS = "evaluation runs protocols (eval_dataset), which embed each image once and collect no outputs of batches"

# Settings that are refused unless they have transformers' default.
SETTINGS = {
    "average_tokens_across_devices": _NO_TOKENS,
    "batch_eval_metrics": _NO_OUTPUTS,
    "debug": "tpu_metrics_debug is for TPUs; only underflow_overflow works",
    "do_predict": "training ends with the protocols; trainer.predict(dataset) embeds images",
    "eval_accumulation_steps": _NO_OUTPUTS,
    "eval_do_concat_batches": _NO_OUTPUTS,
    "eval_use_gather_object": _NO_OUTPUTS,
    "include_for_metrics": _NO_OUTPUTS,
    "include_num_input_tokens_seen": _NO_TOKENS,
    "label_names": "batches have one kind of labels, the identities",
    "label_smoothing_factor": "the margin shapes the target instead; write a TrainingMethod for another loss",
    "length_column_name": "images have no length",
    "liger_kernel_config": _NO_TOKENS,
    "neftune_noise_alpha": f"{_NO_TOKENS}; use augmentation for noise",
    "optim_target_modules": "only GaLore and APOLLO choose modules; set optim to one of them",
    "parallelism_config": "it splits language models; use shard_head or FSDP",
    "prediction_loss_only": _NO_OUTPUTS,
    "train_sampling_strategy": "images have no length; only random and sequential work",
    "use_cache": _NO_TOKENS,
    "use_liger_kernel": _NO_TOKENS,
}
# Values besides the default that some of them may have.
ALLOWED = {"debug": [DebugOption.UNDERFLOW_OVERFLOW], "train_sampling_strategy": "sequential"}

# Parameters of Trainer that are refused unless they are None.
PARAMETERS = {
    "data_collator": "the trainer's FaceCollator decodes the images: change it by image_processor= and on_bad_image=",
    "compute_loss_func": "a TrainingMethod computes the loss: pass method=",
    "compute_metrics": "protocols compute the metrics: pass an Evaluator as eval_dataset=",
    "preprocess_logits_for_metrics": "there are no logits: protocols compare embeddings. Pass an Evaluator as "
    "eval_dataset=",
    "ignore_keys": _NO_OUTPUTS,
    "ignore_keys_for_eval": _NO_OUTPUTS,
}


def check_settings(args: TrainingArguments) -> None:
    """
    Raises:
        ValueError: if a setting has been changed that would have no effect.
    """
    for name, value in changed_settings(args).items():
        used = name == "optim_target_modules" and OptimizerNames(args.optim).value.startswith(("galore", "apollo"))
        if name in SETTINGS and value != ALLOWED.get(name) and not used:
            raise ValueError(f"{name}={value!r} is not supported: {SETTINGS[name]}.")


def check_parameters(**parameters: Any) -> None:
    """
    Raises:
        ValueError: if a parameter is given that would have no effect.
    """
    for name, value in parameters.items():
        if value is not None:
            raise ValueError(f"{name}= is not supported: {PARAMETERS[name]}.")


def changed_settings(args: TrainingArguments) -> dict[str, Any]:
    """Settings that differ from transformers' defaults, as `TrainingArguments()` resolves them."""
    defaults = {each.name: each.default for each in fields(TrainingArguments) if each.init}
    values = {name: getattr(args, name) for name in defaults}
    return {name: value for name, value in values.items() if value != defaults[name] and value not in ([], {})}
