"""
Publishes a model folder on the Hub: weights, code, image processor, card and figures, in one commit.

    python scripts/push_to_hub.py --model outputs/demo --repo_id org/resnet10t_orl
    python scripts/push_to_hub.py --model converted/r50 --repo_id org/r50 --license other \
        --license_name insightface-non-commercial --license_link https://github.com/deepinsight/insightface \
        --training_data '[{"name": "MS1MV3", "license": "non-commercial research only"}]' \
        --metrics results/metrics.json --evaluations '{"lfw": "LFW"}'

A folder that was trained here has the card's data in `model_card.json`; what is given here replaces it.
"""

import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path

from transformers import HfArgumentParser

from hf_face.hub import FaceModelCardData, TrainingData, evaluations_from_metrics, push_to_hub
from hf_face.hub.card_data import CARD_DATA_NAME


@dataclass
class PushArguments:
    model: str = field(metadata={"help": "Model folder: a backbone, or a checkpoint of the training."})
    repo_id: str = field(metadata={"help": "org/name."})
    license: str | None = field(default=None, metadata={"help": "Licence of the weights, such as cc-by-nc-4.0."})
    license_name: str | None = field(default=None, metadata={"help": "Name of a license 'other'."})
    license_link: str | None = field(default=None, metadata={"help": "Where the terms of a license 'other' are."})
    training_data: str | None = field(
        default=None,
        metadata={
            "help": 'JSON list: [{"name": ..., "license": ...}], also hub_id, url, images, identities, citation.'
        },
    )
    base_model: str | None = field(default=None, metadata={"help": "Hub name of the model this one comes from."})
    description: str | None = field(default=None, metadata={"help": "A sentence or two for the card."})
    metrics: str | None = field(default=None, metadata={"help": "metrics.json of scripts/evaluate.py."})
    evaluations: str | None = field(
        default=None, metadata={"help": 'JSON: names in metrics.json to names for the card, {"lfw": "LFW"}.'}
    )
    include_head: bool = field(default=False, metadata={"help": "Publish the class centres too."})
    private: bool | None = field(default=None, metadata={"help": "For a repository that does not exist yet."})
    revision: str | None = field(default=None, metadata={"help": "Branch; default main."})
    create_pr: bool = field(default=False, metadata={"help": "Open a pull request."})
    overwrite: bool = field(default=False, metadata={"help": "Replace a repository that holds something else."})
    commit_message: str = field(default="Publish face recognition model", metadata={"help": "Title of the commit."})

    def __post_init__(self):
        if (self.metrics is None) != (self.evaluations is None):
            raise ValueError("--metrics and --evaluations belong together: the figures, and what the card calls them.")


STATED = ("license", "license_name", "license_link", "base_model", "description")


def load_card(args: PushArguments) -> FaceModelCardData:
    """The folder's card data, with what the command line states."""
    in_folder = (Path(args.model) / CARD_DATA_NAME).is_file()
    card = FaceModelCardData.load(args.model) if in_folder else FaceModelCardData(license="", training_data=[])
    stated = {name: getattr(args, name) for name in STATED if getattr(args, name) is not None}
    if args.training_data:
        stated["training_data"] = [TrainingData(**source) for source in json.loads(args.training_data)]
    if args.metrics:
        metrics = json.loads(Path(args.metrics).read_text(encoding="utf-8"))["metrics"]
        stated["evaluations"] = evaluations_from_metrics(metrics, json.loads(args.evaluations))
    return dataclasses.replace(card, **stated)


def main():
    (args,) = HfArgumentParser(PushArguments).parse_args_into_dataclasses()
    info = push_to_hub(
        args.model,
        args.repo_id,
        card=load_card(args),
        include_head=args.include_head,
        private=args.private,
        revision=args.revision,
        create_pr=args.create_pr,
        overwrite=args.overwrite,
        commit_message=args.commit_message,
    )
    print(info.pr_url or info.commit_url)


if __name__ == "__main__":
    main()
