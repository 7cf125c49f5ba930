"""What a model card is made from: what was measured and what the publisher states; nothing is guessed."""

import csv
import dataclasses
import json
import math
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

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
    A data set the model was trained on.

    Args:
        name (`str`): What people call it ("ORL faces", "MS1MV3").
        license (`str`): Its own license or terms, in words ("CC BY 4.0", "non-commercial research only").
        hub_id (`str`, *optional*): Its repository on the Hub, `org/name`.
        url (`str`, *optional*): Where it is described or its terms are found.
        images, identities (`int`, *optional*): How much of it was seen in training.
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
    The figures of one evaluation.

    Args:
        name (`str`): What was evaluated on, for people ("ORL, 10 people held out").
        metrics (`dict[str, float]`): Metric to value, as the evaluators name them ("accuracy", "tar@far=1e-3").
        dataset_id (`str`, *optional*): The data set's repository on the Hub.
        note (`str`, *optional*): How it was evaluated, where that matters to who compares.
        source_name, source_url (`str`, *optional*):
            Where the figures come from, when they were not measured here. The card shows them apart.
        primary_metric (`str`, *optional*):
            The metric that the card leads with. By default accuracy, else TAR at FAR 1e-4, else rank 1, else the first.

    Raises:
        ValueError: if only one of `source_name` and `source_url` is given, or `primary_metric` is no result.
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
                f"evaluation {self.name!r}: source_name and source_url belong together, give both or none."
            )
        if self.primary_metric is not None and self.primary_metric not in self.own_results:
            raise ValueError(
                f"evaluation {self.name!r}: primary_metric={self.primary_metric!r} is not one of its results, "
                f"{', '.join(self.own_results)}."
            )

    @property
    def thresholds(self) -> dict[str, float]:
        """
        Cosine similarity threshold by false accept rate, `{"1e-3": 0.31}`, where the pairs allowed to measure it: for
        embeddings of single images, which is what a model or its pipeline gives. Other thresholds belong to a
        protocol's test-time augmentation, and may be distances.
        """
        found = {re.fullmatch(r"single_image_threshold@far=(.+)", key): value for key, value in self.metrics.items()}
        return {match[1]: float(value) for match, value in found.items() if match and math.isfinite(value)}

    @property
    def results(self) -> dict[str, float]:
        """
        The metrics that say how good the model is, the primary one first and those of other projects last: no
        thresholds, and no sizes of the evaluation.
        """
        return self.own_results | self.other_projects_results

    @property
    def own_results(self) -> dict[str, float]:
        """The results by this library's definitions, the primary one first."""
        found = {key: value for key, value in self._results().items() if not OTHER_PROJECTS.fullmatch(key)}
        preferred = [key for key in (self.primary_metric, *USUAL_PRIMARY_METRICS) if key in found]
        return {key: found[key] for key in preferred[:1]} | found

    @property
    def other_projects_results(self) -> dict[str, float]:
        """The results computed as another project computes them, `insightface_accuracy` and the like."""
        return {key: value for key, value in self._results().items() if OTHER_PROJECTS.fullmatch(key)}

    @property
    def description(self) -> str:
        """How many pairs there were and how they were evaluated, as far as that is known."""
        counts = [self.metrics.get(f"num_{kind}") for kind in ("genuine", "impostors")]
        pairs = "{:,.0f} genuine and {:,.0f} impostor pairs".format(*counts) if all(counts) else None
        return "; ".join(part for part in (pairs, self.note) if part)

    def _results(self) -> dict[str, float]:
        return {key: value for key, value in self.metrics.items() if not NO_RESULT.fullmatch(key)}


def evaluations_from_metrics(metrics: dict[str, float], titles: dict[str, str]) -> list[Evaluation]:
    """
    Sort the flat metrics of a `Trainer` (`{"eval_orl_accuracy": 0.98, ...}`) by evaluation.

    Args:
        metrics: What `trainer.evaluate()` returned. Keys that belong to no evaluation (run times, losses) are left out.
        titles: Name of each evaluator, as it begins its keys, to what the card calls it.
    """
    evaluations = {name: Evaluation(title, {}) for name, title in titles.items()}
    longest_first = sorted(titles, key=len, reverse=True)  # "agedb_30_accuracy" belongs to "agedb_30", not to "agedb"
    for key, value in metrics.items():
        key = key.removeprefix("eval_")
        name = next((name for name in longest_first if key.startswith(f"{name}_")), None)
        if name is not None:
            evaluations[name].metrics[key.removeprefix(f"{name}_")] = float(value)
    return [evaluation for evaluation in evaluations.values() if evaluation.metrics]


@dataclass
class FaceModelCardData:
    """
    What the card of a face model says beside what the model itself shows (size, input, parameters, latency).

    Args:
        license (`str`):
            License of the weights, one of the Hub's identifiers ("apache-2.0", "cc-by-nc-4.0"). For terms that have no
            identifier: "other", with `license_name` and `license_link`. A converted checkpoint keeps its source's.
        training_data (`list[TrainingData]`):
            What the weights were trained on, each with its own license.
        base_model (`str`, *optional*): Hub name of the model the training started from, or that was converted.
        license_name, license_link (`str`, *optional*): For a license that has no identifier.
        evaluations (`list[Evaluation]`): Figures measured here, and figures of others with their source.
        thresholds_from (`str`, *optional*): Name of the evaluation whose thresholds are the model's; default the first
            one that was measured here and has any.
        hyperparameters (`dict`): What the training was set to, to be listed as it is.
        log_history (`list[dict]`): The trainer's log, one entry a logging step.
        figures (`list[str]`): PNG files to show (ROC curve, training curves); each is named by its file name.
        train_runtime (`float`, *optional*): Seconds of training.
        hardware (`str`, *optional*): What it was trained on.
        emissions_kg (`float`, *optional*): kg of CO2 equivalent, as codecarbon measured them.
        alignment (`str`, *optional*): How the crops the model expects are cut, such as `ARCFACE_ALIGNMENT`.
        description (`str`, *optional*): A sentence or two of the publisher's own.
        citations (`list[str]`): Further BibTeX entries, or keys of `templates/citations.bib`.
        tags (`list[str]`): Further tags for the Hub.
    """

    license: str
    training_data: list[TrainingData]
    base_model: str | None = None
    license_name: str | None = None
    license_link: str | None = None
    evaluations: list[Evaluation] = field(default_factory=list)
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
        return [evaluation for evaluation in self.evaluations if evaluation.source_name is None]

    @property
    def reported(self) -> list[Evaluation]:
        return [evaluation for evaluation in self.evaluations if evaluation.source_name is not None]

    @property
    def calibration(self) -> Evaluation | None:
        """The evaluation whose thresholds are the model's."""
        candidates = [evaluation for evaluation in self.measured if evaluation.thresholds]
        if self.thresholds_from is None:
            return candidates[0] if candidates else None
        for evaluation in candidates:
            if evaluation.name == self.thresholds_from:
                return evaluation
        raise ValueError(
            f"thresholds_from={self.thresholds_from!r} names no evaluation measured here that has thresholds; "
            f"there are {[evaluation.name for evaluation in candidates]}."
        )

    def save(self, folder: str | Path) -> Path:
        """Write `model_card.json`, so that the card of a model folder can be rendered again under another name."""
        path = Path(folder) / CARD_DATA_NAME
        path.write_text(json.dumps(dataclasses.asdict(self), indent=2) + "\n", encoding="utf-8")
        return path

    @classmethod
    def load(cls, folder: str | Path) -> "FaceModelCardData":
        """Read what `save` wrote; figures are found beside it."""
        return cls.read(Path(folder) / CARD_DATA_NAME)

    @classmethod
    def read(cls, path: str | Path, base: "FaceModelCardData | None" = None) -> "FaceModelCardData":
        """
        Read card data from a JSON or YAML file; figures are found beside it.

        Args:
            base: What holds for the fields that the file does not have.

        Raises:
            ValueError: for a field that there is not.
        """
        path = Path(path)
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
        card = cls.from_dict(values, str(path))
        card.figures = [str(path.parent / figure) for figure in card.figures]
        return card if base is None else dataclasses.replace(base, **{name: getattr(card, name) for name in values})

    @classmethod
    def from_dict(cls, values: dict[str, Any], origin: str = "the card's data") -> "FaceModelCardData":
        """
        From plain values, such as a recipe has them. Licenses that are left out are asked for when it is published.

        Raises:
            ValueError: for a field that there is not; `origin` says where.
        """
        if unknown := values.keys() - {field.name for field in dataclasses.fields(cls)}:
            raise ValueError(f"{origin} holds unknown fields {sorted(unknown)}.")
        values = {"license": "", "training_data": [], "evaluations": [], **values}
        values["training_data"] = [TrainingData(**data) for data in values["training_data"]]
        values["evaluations"] = [Evaluation(**evaluation) for evaluation in values["evaluations"]]
        return cls(**values)


def read_emissions(folder: str | Path, since: float = 0.0) -> float | None:
    """
    kg of CO2 equivalent of the last run in codecarbon's `emissions.csv`; None where it did not run, or last ran before
    `since` (seconds since the epoch).
    """
    path = Path(folder) / "emissions.csv"
    if not path.is_file() or path.stat().st_mtime < since:
        return None
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    return float(rows[-1]["emissions"]) if rows else None
