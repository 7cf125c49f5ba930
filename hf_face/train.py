"""
Trains a face model from a recipe, evaluates it on people it has not seen, and saves it.

    accelerate launch -m hf_face.train recipes/demo/orl.yaml
    accelerate launch -m hf_face.train recipes/demo/orl.yaml --learning_rate 0.05 --margin cosface
    torchrun --standalone --nproc_per_node 2 -m hf_face.train recipes/demo/orl.yaml --use_cpu true  # ranks without GPUs

Checkpoints go into output_dir/checkpoint-N. With `resume_from_checkpoint: auto` a run that was interrupted resumes from
the newest complete one.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from transformers import set_seed

from .training import FaceTrainer
from .training.recipe import build_method, build_model, load_data, parse_recipe


def main(argv: Sequence[str] | None = None) -> None:
    model_args, data_args, card_args, args = parse_recipe(sys.argv[1:] if argv is None else argv)
    set_seed(args.seed)
    with args.main_process_first(desc="loading the data"):
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


if __name__ == "__main__":
    main()
