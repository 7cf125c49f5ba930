"""
Train a face model from a recipe, evaluate it on people it has not seen, and save it.

Any field of the recipe can be set on the command line. Checkpoints are saved to output_dir/checkpoint-N. With
`--resume_from_checkpoint auto`, an interrupted run resumes from the newest complete one, and a new one starts.

Use accelerate with a launch configuration to train on several GPUs, or with several processes on a CPU.

Example:
    hf-face train demo/orl --margin adaface --num_train_epochs 2 --output_dir outputs/mine
    accelerate launch --config_file $(hf-face recipes accelerate/multi_gpu) -m hf_face.train demo/orl
    accelerate launch --config_file $(hf-face recipes accelerate/cpu) -m hf_face.train demo/orl
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from .launching import hint_at_launchers, use_ranks_without_gpus
from .loading import check_data
from .parser import CommandParser

if TYPE_CHECKING:
    from ..training import FaceTrainer

# Fields by what they are about, the most used first.
GROUPS = {
    "what most runs set": "train_data eval_data backbone model_name_or_path margin output_dir resume_from_checkpoint "
    "num_train_epochs max_steps per_device_train_batch_size learning_rate bf16 use_cpu",
    "data": "held_out_identities num_identities images_per_identity min_images_per_identity compact image_column "
    "label_column split split_seed streaming augmentation on_bad_image dataloader_num_workers dataloader_drop_last "
    "decode_on_device",
    "model and head": "margin_kwargs scale sub_centers filter_threshold chunk_size partial_fc_sample_rate shard_head "
    "head_from method lora plugins",
    "optimization": "lr_scheduler_type lr_scheduler_kwargs lr_milestones warmup_steps optim optim_args weight_decay "
    "head_learning_rate head_weight_decay max_grad_norm gradient_accumulation_steps ema_decay freeze_batch_norm seed "
    "on_divergence",
    "speed and memory": "fp16 tf32 channels_last torch_compile activation_checkpointing gradient_checkpointing fsdp "
    "deepspeed",  # of the two names of checkpointing, the one that transformers has
    "evaluation": "eval_strategy eval_steps per_device_eval_batch_size load_best_model_at_end metric_for_best_model "
    "greater_is_better",
    "checkpoints and logs": "save_strategy save_steps save_total_limit logging_steps report_to run_name",
    "publishing": "card published push_to_hub hub_model_id hub_private_repo hub_strategy hub_revision",
}


def main(argv: Sequence[str]) -> None:
    from ..training.recipe_arguments import split_recipe
    from ..training.stopping import exiting_on_signals

    parser = command_line()
    parser.parse_args(split_recipe(argv, parser)[1])
    hint_at_launchers()
    use_ranks_without_gpus()
    with exiting_on_signals():
        train_recipe(argv)


def train_recipe(argv: Sequence[str]) -> None:
    """Load what a recipe names, train, and publish."""
    from transformers import set_seed

    from ..data.sources import check_output_dir
    from ..training import FaceTrainer, start_from_means
    from ..training.output_lock import only_training_in
    from ..training.recipe import build_method, build_model, load_data
    from ..training.recipe_arguments import MEANS, parse_recipe

    model_args, data_args, card_args, args = parse_recipe(argv)
    set_seed(args.seed)
    with args.main_process_first(desc="loading the data"):
        check_data(*data_args.train_data)
        for source in data_args.train_data:
            check_output_dir(args.output_dir, source)
        train_dataset, evaluators = load_data(data_args)
    num_identities = train_dataset.features["label"].num_classes
    model, image_processor = build_model(model_args, num_identities, args.head_group)
    trainer = FaceTrainer(
        model,
        args,
        train_dataset,
        evaluators,
        image_processor=image_processor,
        augmentation=data_args.augmentation,
        on_bad_image=data_args.on_bad_image,
        card=card_args.build(model_args.published),
        method=build_method(model_args),
    )
    if model_args.head_from == MEANS:
        start_from_means(trainer.model, train_dataset, image_processor)

    with only_training_in(args.output_dir):  # until all is saved
        train_and_publish(trainer)
    trainer.accelerator.wait_for_everyone()  # a rank that leaves another talking to it can abort
    trainer.accelerator.end_training()


def train_and_publish(trainer: "FaceTrainer") -> None:
    """Train, and save the model first: evaluating and publishing it may fail."""
    args = trainer.args
    trained = trainer.train(resume_from_checkpoint=args.resume_from_checkpoint)
    if trained.metrics:  # empty if the run was already finished
        trainer.save_metrics("train", trained.metrics)
    trainer.save_model()
    if trainer.eval_dataset:
        metrics = trainer.evaluate(figures_dir=Path(args.output_dir, "figures"))
        trainer.log_metrics("eval", metrics)
        trainer.save_metrics("eval", metrics)
    if trainer.card is not None:
        trainer.create_model_card()
    if args.push_to_hub:
        trainer.push_to_hub()


def command_line() -> CommandParser:
    """The parser that explains the fields and reports mistyped ones."""
    from ..training.recipe_arguments import RECIPE_TYPES
    from ..training.refused import SETTINGS

    parser = CommandParser(RECIPE_TYPES, __doc__, usage="%(prog)s RECIPE [--field value ...]")
    parser.add_argument(
        "recipe",
        nargs="?",
        help="A recipe included in hf_face, such as demo/orl (see `hf-face recipes`), or a YAML file.",
    )
    refused = set(SETTINGS) - {"debug", "train_sampling_strategy"}
    groups = {title: names.split() for title, names in GROUPS.items()}
    parser.group_options(groups, "other settings of transformers' TrainingArguments", hidden=refused)
    return parser
