"""Rendering the card of a face model from the model, its measurements and `FaceModelCardData`."""

import math
import re
from importlib.metadata import version
from pathlib import Path

from huggingface_hub import EvalResult, ModelCard, ModelCardData
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id
from transformers import BaseImageProcessor, PreTrainedConfig, PreTrainedModel

from .. import registry
from ..models import FaceConfig
from ..registry import citation_key, margins
from .card_data import FaceModelCardData, TrainingData
from .measuring import ModelMeasurements, measure_model

TEMPLATES = Path(__file__).parent / "templates"
PIPELINE_TAG = "image-feature-extraction"

# The identifiers of https://huggingface.co/docs/hub/repositories-licenses
LICENSES = frozenset((TEMPLATES / "licenses.txt").read_text(encoding="utf-8").split())

FIGURES = {"roc": "ROC curve", "det": "DET curve", "cmc": "CMC curve", "scores": "similarity scores"}
IDENTIFICATION = re.compile(r"(.+_)?(rank\d+|tpir@fpir=.+|map)")

COMMON_SETTINGS = FaceConfig.__dataclass_fields__.keys()


def create_model_card(
    data: FaceModelCardData,
    model: PreTrainedModel,
    image_processor: BaseImageProcessor,
    repo_id: str,
    measurements: ModelMeasurements | None = None,
) -> ModelCard:
    """
    Render the card of a backbone for the repository (or folder) `repo_id`, which its code samples load.

    Args:
        data: What the publisher states, and the evaluations.
        model: The backbone.
        image_processor: Its image processor.
        repo_id: `org/name`, or a folder.
        measurements: The result of `measure_model`, which is called if left out.

    Raises:
        ValueError: if the Hub would reject the metadata (the message lists all errors), or a citation is unknown.
    """
    measured = measurements or measure_model(model)
    metadata = card_metadata(data, model.config.model_type, model.config.margin, repo_id)
    check_metadata(metadata)
    calibration = data.calibration
    return ModelCard.from_template(
        metadata,
        template_path=str(TEMPLATES / "model_card.md"),
        repo_id=repo_id,
        name=repo_id.split("/")[-1],
        data=data,
        config=model.config,
        architecture=describe_architecture(model),
        margin=describe_margin(model.config.margin),
        processor=image_processor,
        measured=measured,
        thresholds=calibration.thresholds if calibration else {},
        figures=[{"file": Path(path).name, "title": figure_title(path)} for path in data.figures],
        weights_license=describe_license(data),
        link=link,
        cell=cell,
        metric_rows=metric_rows,
        versions=library_versions(),
        citations="\n\n".join(collect_citations(data, model.config)),
    )


def card_metadata(data: FaceModelCardData, model_type: str, margin: dict | None, repo_id: str) -> ModelCardData:
    """Build the card's metadata, with one `model-index` result per metric of each evaluation."""
    tags = ["face-recognition", "face-verification", "hf_face", model_type]
    tags += [margin["name"]] if margin else []
    return ModelCardData(
        license=data.license,
        license_name=data.license_name,
        license_link=data.license_link,
        library_name="transformers",
        pipeline_tag=PIPELINE_TAG,
        tags=[*tags, *data.tags],
        base_model=data.base_model,
        datasets=[source.hub_id for source in data.training_data if source.hub_id] or None,
        co2_eq_emissions=emissions_metadata(data),
        model_name=repo_id.split("/")[-1],
        eval_results=evaluation_results(data) or None,
    )


def evaluation_results(data: FaceModelCardData) -> list[EvalResult]:
    # huggingface_hub merges results with the same dataset and configuration under the source of the first one. Results
    # reported by others get their own configuration, to keep them separate from those measured here.
    return [
        EvalResult(
            task_type=f"face-{task_of(metric)}",
            task_name=f"Face {task_of(metric)}",
            dataset_type=evaluation.dataset_id or re.sub(r"\W+", "-", evaluation.name.lower()).strip("-"),
            dataset_name=evaluation.name,
            dataset_config=f"as reported by {evaluation.source_name}" if evaluation.source_name else None,
            metric_type=metric.replace("@", "_at_").replace("=", "_"),
            metric_name=metric,
            metric_value=float(f"{value:.6g}"),
            source_name=evaluation.source_name,
            source_url=evaluation.source_url,
        )
        for evaluation in data.evaluations
        for metric, value in evaluation.results.items()
    ]


def task_of(metric: str) -> str:
    return "identification" if IDENTIFICATION.fullmatch(metric) else "verification"


def emissions_metadata(data: FaceModelCardData) -> dict | None:
    if data.emissions_kg is None:
        return None
    emissions = {"emissions": data.emissions_kg * 1000, "source": "codecarbon", "training_type": "training"}
    return emissions | ({"hardware_used": data.hardware} if data.hardware else {})


def check_metadata(metadata: ModelCardData) -> None:
    """
    Check metadata by the Hub's rules, without connecting to it.

    Raises:
        ValueError: listing all invalid fields and what is expected.
    """
    wrong = []
    if metadata.license not in LICENSES:
        wrong.append(
            f"license={metadata.license!r} is not one of the Hub's identifiers such as 'apache-2.0' or 'cc-by-nc-4.0'; "
            "for other terms use 'other' with license_name and license_link"
        )
    if metadata.license == "other":
        if not re.fullmatch(r"[a-z0-9][a-z0-9.-]*", metadata.license_name or ""):
            wrong.append(f"license_name={metadata.license_name!r} must consist of lowercase letters, digits, '.', '-'")
        if not metadata.license_link:
            wrong.append("license_link must link to the terms of the 'other' license")
    names = [("base_model", metadata.base_model)] if metadata.base_model else []
    names += [("hub_id of training data", name) for name in metadata.datasets or []]
    wrong += [f"{field} {name!r} is not a Hub name such as 'org/name'" for field, name in names if not is_repo_id(name)]
    for result in metadata.eval_results or []:
        if not math.isfinite(result.metric_value):
            wrong.append(f"metric {result.metric_name} of {result.dataset_name!r} is {result.metric_value}")
        if not result.dataset_name or not result.dataset_type:
            wrong.append(f"metric {result.metric_name} belongs to an evaluation without a name")
    if wrong:
        raise ValueError("The model card's metadata is not valid:\n" + "\n".join(f"- {line}" for line in wrong))


def is_repo_id(name: object) -> bool:
    try:
        validate_repo_id(name)  # type: ignore[arg-type]  # refuses what is no text
    except HFValidationError:
        return False
    return True


def describe_architecture(model: PreTrainedModel) -> str:
    """The model class and the settings specific to its family."""
    config = model.config
    settings = {name: getattr(config, name) for name in config.__dataclass_fields__.keys() - COMMON_SETTINGS}
    if "backbone_config" in settings:
        settings["backbone_config"] = settings["backbone_config"].model_type
    shown = ", ".join(f"{name} = {value}" for name, value in sorted(settings.items()) if value not in (None, False))
    return f"{type(model).__name__}: {shown}"


def describe_margin(margin: dict | None) -> str | None:
    if margin is None:
        return None
    settings = ", ".join(f"{key} = {value}" for key, value in margin.items() if key != "name")
    return f"{margin['name']}{f' ({settings})' if settings else ''}"


def describe_license(data: FaceModelCardData) -> str:
    name = data.license_name if data.license == "other" else data.license
    return f"[{name}]({data.license_link})" if data.license_link else name


def link(source: TrainingData) -> str:
    url = source.url or (f"https://huggingface.co/datasets/{source.hub_id}" if source.hub_id else None)
    return f"[{source.name}]({url})" if url else source.name


def library_versions() -> str:
    return ", ".join(f"{name} {version(name)}" for name in ("torch", "transformers", "datasets", "timm"))


def figure_title(path: str) -> str:
    """`figures/lfw_roc.png` is titled "lfw: ROC curve"."""
    stem = Path(path).stem
    name, _, kind = stem.rpartition("_")
    return f"{name.replace('_', ' ')}: {FIGURES[kind]}" if name and kind in FIGURES else stem.replace("_", " ")


def metric_rows(results: dict[str, float]) -> dict[str, str]:
    """Format metrics for the card, with standard deviations next to their means: "0.93778 ± 0.0174"."""
    deviations = {deviation_of(metric) for metric in results}
    rows = {metric: f"{value:.5g}" for metric, value in results.items() if metric not in deviations}
    return {
        metric: f"{row} ± {results[deviation_of(metric)]:.3g}" if deviation_of(metric) in results else row
        for metric, row in rows.items()
    }


def deviation_of(metric: str) -> str:
    """The name of a metric's standard deviation: "val_std@far=1e-3" for "val@far=1e-3"."""
    name, at, rate = metric.partition("@")
    return f"{name}_std{at}{rate}"


def cell(value: object) -> str:
    """Escape a value for a table cell."""
    return " ".join(str(value).replace("|", "\\|").split())


def collect_citations(data: FaceModelCardData, config: PreTrainedConfig) -> list[str]:
    """
    Collect BibTeX entries of backbone, margin and data, without duplicates.

    Raises:
        ValueError: if a stated citation is neither an entry nor the key of one.
    """
    known = known_citations() | {citation_key(entry): entry for entry in config.citations}
    stated = [source.citation for source in data.training_data if source.citation] + data.citations
    for entry in stated:
        if entry not in known and not entry.lstrip().startswith("@"):
            raise ValueError(f"citation {entry!r} is neither a BibTeX entry nor one of {', '.join(sorted(known))}.")
    margin = margins.get(config.margin["name"]) if config.margin else None  # also None if its plugin is not loaded
    entries = [*config.citations, *(margin.citations if margin else ()), *(known.get(entry, entry) for entry in stated)]
    unique: dict[str, str] = {}
    for entry in entries:
        unique.setdefault(citation_key(entry), entry.strip())
    return list(unique.values())


def known_citations() -> dict[str, str]:
    """Entries by key, of everything registered and from templates/citations.bib for everything else."""
    entries = (TEMPLATES / "citations.bib").read_text(encoding="utf-8").strip().split("\n\n")
    return {citation_key(entry): entry for entry in entries} | registry.known_citations()
