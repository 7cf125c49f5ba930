"""The data of a model card: measurements and what the publisher states."""

import csv
import dataclasses
import inspect
import json
import math
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from ..files import file_inside
from .published import Published

CARD_DATA_NAME = "model_card.json"
NO_RESULT = re.compile(r"(.+_)?(threshold(@.+)?|num_genuine|num_impostors|finest_far)")
OTHER_PROJECTS = re.compile(r"(.+_)?(insightface|timm_face)_.+")  # metrics computed as these projects compute them
USUAL_PRIMARY_METRICS = ("accuracy", "tar@far=1e-4", "rank1")
ARCFACE_ALIGNMENT = (
    "aligned so that the five landmarks (eyes, nose, corners of the mouth) lie at the ArcFace reference points for "
    "112 x 112"
)


@dataclass
class TrainingData:
    """
    A dataset the model was trained on.

    Args:
        name (`str`): Its display name ("ORL faces", "MS1MV3").
        license (`str`): Its license or terms, as text ("CC BY 4.0", "non-commercial research only").
        hub_id (`str`, *optional*): Its repository on the Hub, `org/name`.
        url (`str`, *optional*): Page that describes it or its terms.
        images, identities (`int`, *optional*): How many of them were used in training.
        citation (`str`, *optional*): BibTeX entry, or the key of one in `templates/citations.bib`.
    """

    name: str
    license: str
    hub_id: str | None = None
    url: str | None = None
    images: int | None = None
    identities: int | None = None
    citation: str | None = None


@dataclass
class Evaluation:
    """
    The metrics of one evaluation.

    Args:
        name (`str`): Display name of the data ("ORL, 10 people held out").
        metrics (`dict[str, float]`): Values by metric, named as by the evaluators ("accuracy", "tar@far=1e-3").
        dataset_id (`str`, *optional*): The dataset's repository on the Hub.
        note (`str`, *optional*): Details of the evaluation that matter for comparisons.
        source_name, source_url (`str`, *optional*):
            Source of the metrics if they were not measured here. The card lists them separately.
        primary_metric (`str`, *optional*):
            The first metric in the card. Defaults to accuracy, TAR at FAR 1e-4, rank 1 or the first, in this order.

    Raises:
        ValueError: if only one of `source_name` and `source_url` is given, or `primary_metric` is not a result.
    """

    name: str
    metrics: dict[str, float]
    dataset_id: str | None = None
    note: str | None = None
    source_name: str | None = None
    source_url: str | None = None
    primary_metric: str | None = None

    def __post_init__(self):
        if (self.source_name is None) != (self.source_url is None):
            raise ValueError(
                f"evaluation {self.name!r}: source_name and source_url belong together, pass both or neither."
            )
        if self.primary_metric is not None and self.primary_metric not in self.own_results:
            raise ValueError(
                f"evaluation {self.name!r}: primary_metric={self.primary_metric!r} is not one of its results, "
                f"{', '.join(self.own_results)}."
            )

    @property
    def thresholds(self) -> dict[str, float]:
        """
        Cosine similarity threshold by measurable false accept rate, `{"1e-3": 0.31}`, for embeddings of single images,
        as returned by a model or its pipeline. Other thresholds are for a protocol's test-time augmentation, and may be
        distances.
        """
        found = {re.fullmatch(r"single_image_threshold@far=(.+)", key): value for key, value in self.metrics.items()}
        return {match[1]: float(value) for match, value in found.items() if match and math.isfinite(value)}

    @property
    def results(self) -> dict[str, float]:
        """
        The metrics of the model's quality, without thresholds and data sizes, with the primary metric first and those
        of other projects last.
        """
        return self.own_results | self.other_projects_results

    @property
    def own_results(self) -> dict[str, float]:
        """The results by this library's definitions, with the primary metric first."""
        found = {key: value for key, value in self._results().items() if not OTHER_PROJECTS.fullmatch(key)}
        preferred = [key for key in (self.primary_metric, *USUAL_PRIMARY_METRICS) if key in found]
        return {key: found[key] for key in preferred[:1]} | found

    @property
    def other_projects_results(self) -> dict[str, float]:
        """The results by other projects' definitions, such as `insightface_accuracy`."""
        return {key: value for key, value in self._results().items() if OTHER_PROJECTS.fullmatch(key)}

    @property
    def description(self) -> str:
        """The number of pairs and how they were evaluated, if known."""
        counts = [self.metrics.get(f"num_{kind}") for kind in ("genuine", "impostors")]
        pairs = "{:,.0f} genuine and {:,.0f} impostor pairs".format(*counts) if all(counts) else None
        return "; ".join(part for part in (pairs, self.note) if part)

    def _results(self) -> dict[str, float]:
        return {key: value for key, value in self.metrics.items() if not NO_RESULT.fullmatch(key)}


def evaluations_from_metrics(metrics: dict[str, float], titles: dict[str, str]) -> list[Evaluation]:
    """
    Group the flat metrics of a `Trainer` (`{"eval_orl_accuracy": 0.98, ...}`) by evaluation.

    Args:
        metrics: The return value of `trainer.evaluate()`. Keys of no evaluation (run times, losses) are left out.
        titles: Names of evaluators, which prefix their keys, to titles in the card.

    Returns:
        The evaluations that have metrics, in the order of `titles`.
    """
    evaluations = {name: Evaluation(title, {}) for name, title in titles.items()}
    longest_first = sorted(titles, key=len, reverse=True)  # "agedb_30_accuracy" belongs to "agedb_30", not "agedb"
    for key, value in metrics.items():
        key = key.removeprefix("eval_")
        name = next((name for name in longest_first if key.startswith(f"{name}_")), None)
        if name is not None:
            evaluations[name].metrics[key.removeprefix(f"{name}_")] = float(value)
    return [evaluation for evaluation in evaluations.values() if evaluation.metrics]


@dataclass
class FaceModelCardData:
    """
    The contents of a face model's card that the model itself does not provide (size, input, parameters, latency).

    Args:
        license (`str`):
            License of the weights, one of the Hub's identifiers ("apache-2.0", "cc-by-nc-4.0"). For terms without
            identifier, "other" with `license_name` and `license_link`. A converted checkpoint keeps its license.
        training_data (`list[TrainingData]`):
            The datasets the weights were trained on, each with its own license.
        base_model (`str`, *optional*): Hub name of the model that was fine-tuned or converted.
        license_name, license_link (`str`, *optional*): Name and link of a license without identifier.
        evaluations (`list[Evaluation]`): Evaluations measured here, and others with their source.
        published (`Published`, *optional*): The publication that the training follows, with its figures.
        thresholds_from (`str`, *optional*): Name of the evaluation that sets the model's thresholds. Defaults to the
            first one measured here that has any.
        hyperparameters (`dict`): Settings of the training, listed without changes.
        log_history (`list[dict]`): The trainer's log, one entry per logging step.
        figures (`list[str]`): Images to show (ROC curve, training curves), titled by their file names.
        train_runtime (`float`, *optional*): Duration of training in seconds.
        hardware (`str`, *optional*): Hardware used for training.
        emissions_kg (`float`, *optional*): kg of CO2 equivalent, as measured by codecarbon.
        alignment (`str`, *optional*): Alignment of the crops the model expects, such as `ARCFACE_ALIGNMENT`.
        description (`str`, *optional*): A short description by the publisher.
        citations (`list[str]`): Further BibTeX entries, or keys of `templates/citations.bib`.
        tags (`list[str]`): Further tags for the Hub.
    """

    license: str
    training_data: list[TrainingData]
    base_model: str | None = None
    license_name: str | None = None
    license_link: str | None = None
    evaluations: list[Evaluation] = field(default_factory=list)
    published: Published | None = None
    thresholds_from: str | None = None
    hyperparameters: dict[str, Any] = field(default_factory=dict)
    log_history: list[dict[str, Any]] = field(default_factory=list)
    figures: list[str] = field(default_factory=list)
    train_runtime: float | None = None
    hardware: str | None = None
    emissions_kg: float | None = None
    alignment: str | None = None
    description: str | None = None
    citations: list[str] = field(default_factory=list)
    tags: list[str] = field(default_factory=list)

    @property
    def measured(self) -> list[Evaluation]:
        """The evaluations measured here."""
        return [evaluation for evaluation in self.evaluations if evaluation.source_name is None]

    @property
    def reported(self) -> list[Evaluation]:
        """The evaluations of other sources."""
        return [evaluation for evaluation in self.evaluations if evaluation.source_name is not None]

    @property
    def calibration(self) -> Evaluation | None:
        """
        The evaluation that sets the model's thresholds; None if no evaluation measured here has any.

        Raises:
            ValueError: if `thresholds_from` is not one of them.
        """
        candidates = [evaluation for evaluation in self.measured if evaluation.thresholds]
        if self.thresholds_from is None:
            return candidates[0] if candidates else None
        for evaluation in candidates:
            if evaluation.name == self.thresholds_from:
                return evaluation
        raise ValueError(
            f"thresholds_from={self.thresholds_from!r} is not an evaluation measured here with thresholds. "
            f"Available: {[evaluation.name for evaluation in candidates]}."
        )

    def save(self, folder: str | Path) -> Path:
        """Write `model_card.json`, to render the card of a model folder again with another name."""
        path = Path(folder) / CARD_DATA_NAME
        path.write_text(json.dumps(dataclasses.asdict(self), indent=2) + "\n", encoding="utf-8")
        return path

    @classmethod
    def load(cls, folder: str | Path) -> "FaceModelCardData":
        """Read the file written by `save`; paths of figures are relative to `folder`."""
        return cls.read(Path(folder) / CARD_DATA_NAME)

    @classmethod
    def read(cls, path: str | Path, base: "FaceModelCardData | None" = None) -> "FaceModelCardData":
        """
        Read card data from a JSON or YAML file. Paths of figures are relative to its folder and must be inside it.

        Args:
            base: Card data to use for fields that are not in the file.

        Raises:
            ValueError: if the file has no fields, a field is unknown, or a figure lies outside its folder.
        """
        path = Path(path)
        try:
            values = yaml.safe_load(path.read_text(encoding="utf-8"))
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise ValueError(f"{path} is not a complete JSON or YAML file: {error}") from error
        if not isinstance(values, dict):
            raise ValueError(f"{path}: expected the fields of FaceModelCardData, found {type(values).__name__}.")
        card = cls.from_dict(values, str(path))
        card.figures = [str(file_inside(path.parent, figure)) for figure in card.figures]
        return card if base is None else dataclasses.replace(base, **{name: getattr(card, name) for name in values})

    @classmethod
    def from_dict(cls, values: dict[str, Any], origin: str = "the card's data") -> "FaceModelCardData":
        """
        Build card data from plain values, such as those of a recipe. Licenses are only required for publishing.

        Raises:
            ValueError: if a field is unknown; the message names `origin`.
        """
        if unknown := values.keys() - {field.name for field in dataclasses.fields(cls)}:
            raise ValueError(f"{origin} has unknown fields {sorted(unknown)}.")
        values = {"license": "", "training_data": [], "evaluations": [], **values}
        for name, part in (("training_data", TrainingData), ("evaluations", Evaluation)):
            values[name] = [_build(part, each, f"{origin}, {name}") for each in values[name]]
        if isinstance(values.get("published"), dict):
            values["published"] = Published.from_dict(values["published"])
        return cls(**values)


def _build(part: type, values: dict[str, Any], origin: str) -> Any:
    try:
        inspect.signature(part).bind(**values)
    except TypeError as error:
        fields = ", ".join(field.name for field in dataclasses.fields(part))
        raise ValueError(f"{origin}: {error}; the fields are {fields}.") from None
    return part(**values)


def read_emissions(folder: str | Path, since: float = 0.0) -> float | None:
    """
    Read the kg of CO2 equivalent of the last run in codecarbon's `emissions.csv`. Returns None if the file does not
    exist or is older than `since` (seconds since the epoch).
    """
    path = Path(folder) / "emissions.csv"
    if not path.is_file() or path.stat().st_mtime < since:
        return None
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    return float(rows[-1]["emissions"]) if rows else None
