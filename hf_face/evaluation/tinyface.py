"""Identification of labeled images, and TinyFace, its benchmark for faces of about 20 x 16 pixels."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from datasets import ClassLabel, Dataset, Image, concatenate_datasets
from scipy.io import loadmat

from ..data.columns import identity_labels
from ..embedding import Embedder, Flip
from ..embedding.ranks import is_main_process
from .comparison_scores import allowed_errors
from .evaluator import Evaluator
from .identification import DEFAULT_FPIRS, DEFAULT_RANKS, search
from .metrics import format_far
from .plots import plot_cmc, save_figure

TINYFACE_RANKS = (1, 5, 10, 20, 50)
DISTRACTOR = -100  # the label of TinyFace's own scripts for gallery images of nobody who is searched for


class IdentificationEvaluator(Evaluator):
    """Rank-k, mean average precision and, where enough probes are of nobody in the gallery, TPIR@FPIR.

    Args:
        gallery, probes: columns `image` and `label`; a person may have several gallery images. Where the label is a
            `ClassLabel`, its names say who is who, since two data sets may number the same people differently.
        flip: test-time augmentation by the flipped image: `"sum"`, `"concat"` or `None`.
        ranks, fpirs: what to report.
        name: prefix of the metrics.

    Example:
    ```python
    >>> gallery, probes = load_tinyface("tinyface")
    >>> IdentificationEvaluator(gallery, probes, name="tinyface")(model, image_processor)["tinyface_rank1"]
    0.68
    ```
    """

    def __init__(
        self,
        gallery: Dataset,
        probes: Dataset,
        flip: Flip = "sum",
        ranks: Sequence[int] = DEFAULT_RANKS,
        fpirs: Sequence[float] = DEFAULT_FPIRS,
        name: str = "identification",
    ):
        self.gallery, self.probes = gallery, probes
        self.flip = flip
        self.needs_flip = flip is not None
        self.ranks, self.fpirs = ranks, fpirs
        self.name = name
        self.primary_metric = f"{name}_rank1"
        mated = np.isin(_people(probes), _people(gallery))
        if not mated.any():
            raise ValueError(f"{name}: no probe is of a person in the gallery")
        num_unmated = int((~mated).sum())
        self.not_measurable = [
            f"{name}_tpir@fpir={format_far(fpir)}" for fpir in fpirs if not allowed_errors(fpir, num_unmated)
        ]

    def evaluate(self, embedder: Embedder, output_dir: str | Path | None = None) -> dict[str, float]:
        sides = []
        for dataset in (self.probes, self.gallery):
            embeddings = embedder(dataset, self.flip).embeddings
            sides += [torch.from_numpy(embeddings).to(embedder.device), _people(dataset)]
        result = search(*sides)
        metrics = result.metrics(self.ranks, self.fpirs) | {"map": result.mean_average_precision}
        if output_dir is not None and is_main_process():
            save_figure(plot_cmc({self.name: result.cmc(max(self.ranks))}), Path(output_dir) / f"{self.name}_cmc.png")
        return {f"{self.name}_{key}": value for key, value in metrics.items()}


def _people(dataset: Dataset) -> np.ndarray:
    """Who is on each image (N,)."""
    labels, feature = identity_labels(dataset), dataset.features["label"]
    return np.array(feature.names)[labels] if isinstance(feature, ClassLabel) else labels


def enroll_first(dataset: Dataset) -> tuple[Dataset, Dataset]:
    """Gallery and probes from labeled images: everybody's first image is enrolled, all others are probes."""
    _, first = np.unique(identity_labels(dataset), return_index=True)
    others = np.setdiff1d(np.arange(len(dataset)), first)
    return dataset.select(np.sort(first)), dataset.select(others)


def load_tinyface(folder: str | Path, images: str | Path | None = None) -> tuple[Dataset, Dataset]:
    """TinyFace's gallery (matches and distractors) and probes, columns `image` and `label`.

    Args:
        folder: holds `gallery_match_img_ID_pairs.mat` and `probe_img_ID_pairs.mat`, itself or in `Testing_Set`.
        images: holds `Gallery_Match`, `Gallery_Distractor` and `Probe`; the folder of the two lists if left out.
            Aligned copies may have another file type.

    Raises:
        FileNotFoundError: a list, a folder or a listed image is missing.
        ValueError: a list is not in TinyFace's format.
    """
    folder = Path(folder)
    folder = folder / "Testing_Set" if (folder / "Testing_Set").is_dir() else folder
    images = folder if images is None else Path(images)
    matches = _listed(folder / "gallery_match_img_ID_pairs.mat", "gallery", images / "Gallery_Match")
    probes = _listed(folder / "probe_img_ID_pairs.mat", "probe", images / "Probe")
    distractors = sorted(_by_stem(images / "Gallery_Distractor").values())
    return concatenate_datasets([matches, _dataset(distractors, [DISTRACTOR] * len(distractors))]), probes


def _listed(path: Path, kind: str, images: Path) -> Dataset:
    """The images of a list, whose `<kind>_set` holds names and `<kind>_ids` the people."""
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing")
    content = loadmat(path)
    missing = {f"{kind}_set", f"{kind}_ids"} - content.keys()
    if missing:
        raise ValueError(f"{path}: no variable {', '.join(sorted(missing))}")
    names = [str(cell[0].item()) for cell in content[f"{kind}_set"]]
    labels = content[f"{kind}_ids"].ravel().astype(np.int64)
    if len(names) != len(labels):
        raise ValueError(f"{path}: {len(names)} images in {kind}_set, {len(labels)} people in {kind}_ids")
    files = _by_stem(images)
    for row, name in enumerate(names, 1):
        if Path(name).stem not in files:
            raise FileNotFoundError(f"{path}, entry {row}: {name} is not in {images}")
    return _dataset([files[Path(name).stem] for name in names], labels.tolist())


def _by_stem(folder: Path) -> dict[str, str]:
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} is missing")
    return {path.stem: str(path) for path in folder.iterdir() if path.is_file()}


def _dataset(paths: list[str], labels: list[int]) -> Dataset:
    return Dataset.from_dict({"image": paths, "label": labels}).cast_column("image", Image())
