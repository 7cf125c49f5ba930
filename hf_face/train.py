"""
Trains a face model from a recipe, evaluates it on people it has not seen, and saves it.

Any field of the recipe can be set on the command line. Checkpoints go into output_dir/checkpoint-N. With
`resume_from_checkpoint: auto` a run that was interrupted resumes from the newest complete one.

On several GPUs accelerate launches it, with a file that says what machines there are; on several ranks without GPUs
torchrun does.

Example:
    hf-face train demo/orl --margin adaface --num_train_epochs 2 --output_dir outputs/mine
    accelerate launch --config_file $(hf-face recipes accelerate/multi_gpu) -m hf_face.train demo/orl
    torchrun --standalone --nproc_per_node 2 -m hf_face.train demo/orl --use_cpu true
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from transformers import set_seed

from .cli.errors import run_for_people
from .cli.loading import check_data
from .cli.parser import CommandParser
from .training import FaceTrainer
from .training.recipe import RECIPE_TYPES, build_method, build_model, load_data, parse_recipe


def main(argv: Sequence[str] | None = None) -> None:
    argv = sys.argv[1:] if argv is None else argv
    command_line().parse_args(argv)
    model_args, data_args, card_args, args = parse_recipe(argv)
    set_seed(args.seed)
    with args.main_process_first(desc="loading the data"):
        check_data(*data_args.train_data)
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
        card=card_args.build(),
        method=build_method(model_args),
    )

    trained = trainer.train(resume_from_checkpoint=args.resume_from_checkpoint)
    if trained.metrics:  # not a finished run once more
        trainer.save_metrics("train", trained.metrics)
    trainer.save_model()
    if evaluators:
        metrics = trainer.evaluate(figures_dir=Path(args.output_dir, "figures"))
        trainer.log_metrics("eval", metrics)
        trainer.save_metrics("eval", metrics)
    if trainer.card is not None:
        trainer.create_model_card()
    if args.push_to_hub:
        trainer.push_to_hub()


def command_line() -> CommandParser:
    """What explains the fields, and answers those that are mistyped."""
    parser = CommandParser(RECIPE_TYPES, __doc__, usage="%(prog)s RECIPE [--field value ...]")
    parser.add_argument(
        "recipe", nargs="?", help="one that travels with hf_face, such as demo/orl (`hf-face recipes`), or a YAML file"
    )
    return parser


if __name__ == "__main__":
    run_for_people(main)
