r"""
Publish a model folder on the Hub: weights, code, image processor, card and figures, in one commit.

Folders written by training have the card's data in `model_card.json`. For others, such as converted models, pass a file
with fields of `hf_face.hub.FaceModelCardData`. It takes precedence over the data in the folder:

    license: other
    license_name: insightface-non-commercial
    license_link: https://github.com/deepinsight/insightface
    training_data:
      - {name: MS1MV3, license: non-commercial research only}
    evaluations:
      - name: IJB-C
        metrics: {tar@far=1e-4: 0.9625}
        source_name: InsightFace model zoo
        source_url: https://github.com/deepinsight/insightface/tree/master/model_zoo

The output folder of `hf-face evaluate` adds measurements: metrics, thresholds and ROC curves. --evaluations says which
to publish, by the prefix of their metrics (`lfw` for `lfw_accuracy`), and their titles.

Fields of the card:
{card}

Each of training_data:
{training_data}

Each of evaluations:
{evaluations}

Example:
    hf-face push --model outputs/demo --repo_id org/resnet10t_orl
    hf-face push --model outputs/demo --repo_id resnet10t_orl --private true --create_pr
    hf-face push --model converted/r50 --repo_id org/r50 --card r50.yaml \
        --results results --evaluations '{"lfw": "LFW", "cfp_fp": "CFP-FP"}'
"""

import dataclasses
import inspect
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from huggingface_hub.utils import validate_repo_id

from ..files import read_json
from ..user_input import check_folder, did_you_mean
from .loading import check_model
from .parser import CommandParser

if TYPE_CHECKING:
    from ..hub import FaceModelCardData


@dataclass
class PushArguments:
    model: str = field(metadata={"help": "Model folder: a backbone or a training checkpoint."})
    repo_id: str = field(metadata={"help": "org/name, or name for your own namespace."})
    card: str | None = field(
        default=None, metadata={"help": "YAML or JSON file with the card's data: license, training_data ..."}
    )
    results: str | None = field(default=None, metadata={"help": "Output folder of `hf-face evaluate`."})
    evaluations: str | None = field(
        default=None,
        metadata={"help": 'JSON: names of evaluations in the results to their titles in the card, {"lfw": "LFW"}.'},
    )
    include_head: bool = field(
        default=False, metadata={"help": "Also publish the class centers, to go on training with."}
    )
    endpoint: bool = field(default=False, metadata={"help": "Also publish handler.py, for Inference Endpoints."})
    private: bool | None = field(default=None, metadata={"help": "Make a new repository private."})
    revision: str | None = field(default=None, metadata={"help": "Branch to publish to; main by default."})
    create_pr: bool = field(default=False, metadata={"help": "Open a pull request, for others to merge."})
    overwrite: bool = field(default=False, metadata={"help": "Replace a repository that has other contents."})
    commit_message: str = field(default="Publish face recognition model", metadata={"help": "Title of the commit."})

    def __post_init__(self):
        if (self.results is None) != (self.evaluations is None):
            raise ValueError("--results and --evaluations belong together: the metrics, and their titles in the card.")
        validate_repo_id(self.repo_id)
        if self.evaluations is not None:
            read_titles(self.evaluations)
        if self.create_pr and self.revision:
            raise ValueError("a pull request is opened against main: set --create_pr or --revision, not both")


def main(argv: Sequence[str]) -> None:
    docstring = with_fields(__doc__) if {"-h", "--help"}.intersection(argv) else __doc__
    (args,) = CommandParser(PushArguments, docstring).parse_args_into_dataclasses(argv)
    check_model(args.model)

    from ..hub import push_to_hub

    info = push_to_hub(
        args.model,
        args.repo_id,
        card=load_card(args),
        include_head=args.include_head,
        endpoint=args.endpoint,
        private=args.private,
        revision=args.revision,
        create_pr=args.create_pr,
        overwrite=args.overwrite,
        commit_message=args.commit_message,
    )
    print(info.pr_url or info.commit_url)


def load_card(args: PushArguments) -> "FaceModelCardData":
    """Load the folder's card data, overridden by the card file, and add the results."""
    from ..hub import FaceModelCardData, evaluations_from_metrics
    from ..hub.card_data import CARD_DATA_NAME

    card = FaceModelCardData.load(args.model) if Path(args.model, CARD_DATA_NAME).is_file() else None
    if args.card is not None:
        card = FaceModelCardData.read(args.card, base=card)
    if card is None:
        raise ValueError(f"{args.model} has no {CARD_DATA_NAME}: state the licenses in a file, --card card.yaml.")
    if args.results is None:
        return card
    results, titles = Path(args.results), read_titles(args.evaluations)
    check_folder(results)
    metrics = read_json(results / "metrics.json")["metrics"]
    for name in titles:
        if not any(key.startswith(f"{name}_") for key in metrics):
            names = {key[: match.start()] for key in metrics for match in re.finditer("_", key)}
            raise ValueError(f"{results} has no evaluation {name!r}.{did_you_mean(name, names)}")
    rocs = [results / f"{name}_roc.png" for name in titles]
    return dataclasses.replace(
        card,
        evaluations=evaluations_from_metrics(metrics, titles) + card.reported,
        figures=[str(roc) for roc in rocs if roc.is_file()],
    )


def read_titles(evaluations: str) -> dict[str, str]:
    """The names of evaluations and their titles in the card."""
    try:
        titles = json.loads(evaluations)
    except json.JSONDecodeError:
        titles = None
    if not isinstance(titles, dict) or not all(isinstance(title, str) for title in titles.values()):
        raise ValueError(f'--evaluations must be JSON such as {{"lfw": "LFW"}}, found {evaluations}')
    return titles


def with_fields(text: str) -> str:
    """Fill in the fields of the card, from the docstrings of its dataclasses."""
    from ..hub.card_data import Evaluation, FaceModelCardData, TrainingData

    for name, data in (("card", FaceModelCardData), ("training_data", TrainingData), ("evaluations", Evaluation)):
        fields = inspect.cleandoc(data.__doc__ or "").partition("Args:\n")[2].partition("\n\n")[0]
        text = text.replace(f"{{{name}}}", re.sub(r"[`*]", "", fields))
    return text
