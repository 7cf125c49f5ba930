"""TinyFace, an identification benchmark with faces of about 20 x 16 pixels."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from datasets import Dataset, Image, concatenate_datasets
from scipy.io import loadmat

from ..data.image_folder import find_images
from ..embedding import Flip
from ..registry import protocols
from ..user_input import check_folder
from .evaluator import Evaluator
from .identification import IdentificationEvaluator

TINYFACE_RANKS = (1, 5, 10, 20, 50)
DISTRACTOR = -100  # TinyFace's label for gallery images of other people than the probes'

TINYFACE = """
@inproceedings{tinyface,
  title = {Low-Resolution Face Recognition},
  author = {Cheng, Zhiyi and Zhu, Xiatian and Gong, Shaogang},
  booktitle = {Asian Conference on Computer Vision},
  year = {2018}
}
"""


@protocols.register("tinyface", citation=TINYFACE)
class TinyFaceEvaluator(IdentificationEvaluator):
    """
    TinyFace: faces of about 20 x 16 pixels searched for in a gallery with distractors. Rank-k and mean average
    precision.

    Example:
    ```python
    >>> (evaluator,) = TinyFaceEvaluator.load("tinyface")
    >>> evaluator(model, image_processor)["tinyface_rank1"]
    0.68
    ```
    """

    @classmethod
    def load(
        cls,
        data: str | Path,
        images: str | Path | None = None,
        flip: Flip = "sum",
        ranks: Sequence[int] = TINYFACE_RANKS,
    ) -> list[Evaluator]:
        """`data` and `images`: see [`load_tinyface`]."""
        return [cls(*load_tinyface(data, images), flip, ranks, fpirs=(), name="tinyface")]


def load_tinyface(folder: str | Path, images: str | Path | None = None) -> tuple[Dataset, Dataset]:
    """Load TinyFace's gallery (matches and distractors) and probes, with columns `image` and `label`.

    Args:
        folder: folder of `gallery_match_img_ID_pairs.mat` and `probe_img_ID_pairs.mat`, or of `Testing_Set` with them.
        images: folder of `Gallery_Match`, `Gallery_Distractor` and `Probe`; by default, the folder of the two lists.
            Aligned copies may have a different file type.

    Raises:
        FileNotFoundError: if a list, a folder or a listed image is missing.
        ValueError: if a list is not in TinyFace's format.
    """
    check_folder(folder)
    folder = Path(folder)
    folder = folder / "Testing_Set" if (folder / "Testing_Set").is_dir() else folder
    images = folder if images is None else Path(images)
    matches = _listed(folder / "gallery_match_img_ID_pairs.mat", "gallery", images / "Gallery_Match")
    probes = _listed(folder / "probe_img_ID_pairs.mat", "probe", images / "Probe")
    distractors = sorted(_by_stem(images / "Gallery_Distractor").values())
    return concatenate_datasets([matches, _dataset(distractors, [DISTRACTOR] * len(distractors))]), probes


def _listed(path: Path, kind: str, images: Path) -> Dataset:
    """Load the images of a list, with file names in `<kind>_set` and people in `<kind>_ids`."""
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing: expected the lists in TinyFace's folder, or in its Testing_Set")
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
    """The images of a folder by their names without suffix."""
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} is missing: expected Gallery_Match, Gallery_Distractor and Probe beside it")
    return {Path(name).stem: str(folder / name) for name in find_images(folder)[0]}


def _dataset(paths: list[str], labels: list[int]) -> Dataset:
    return Dataset.from_dict({"image": paths, "label": labels}).cast_column("image", Image())
