"""Verification pairs: images, and pairs of them labeled as the same person or not."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from datasets import Dataset, load_dataset
from huggingface_hub import DatasetCard, DatasetCardData, hf_hub_download

from ..user_input import check_exists
from .columns import identity_labels, read_images_into_table
from .sources import check_paths_of_hub_dataset, load_shards

NUM_FOLDS = 10

CARD = """
# {name}: face verification pairs

{images} images, {genuine} pairs of the same person and {impostor} of different people.

```python
from hf_face.data import VerificationPairs

pairs = VerificationPairs.from_parquet("<this repository>")
```
"""


@dataclass
class VerificationPairs:
    """A 1:1 verification protocol.

    Args:
        images: The distinct images, with the column `image` and optionally `name`.
        pairs: (P, 2) int64, two rows of `images` for each pair.
        same: (P,) bool, whether both show the same person.
        fold: (P,) int64, the cross-validation fold of each pair; None for ten consecutive folds of equal size.
        name: Prefix of the metrics, such as `lfw`.
        group: (P,) the subgroup of each pair (such as the ethnicity in RFW), if the protocol has subgroups.

    Raises:
        ValueError: if lengths differ, or a pair points to a row that does not exist.
    """

    images: Dataset
    pairs: np.ndarray
    same: np.ndarray
    fold: np.ndarray | None = None
    name: str = "verification"
    group: np.ndarray | None = None

    def __post_init__(self):
        self.pairs = np.asarray(self.pairs, dtype=np.int64)
        self.same = np.asarray(self.same, dtype=bool)
        if self.fold is not None:
            self.fold = np.asarray(self.fold, dtype=np.int64)
        if self.group is not None:
            self.group = np.asarray(self.group)
        self._check()

    def __len__(self) -> int:
        return len(self.pairs)

    def to_parquet(self, folder: str | Path) -> Path:
        """Write a folder for [`VerificationPairs.from_parquet`], `datasets` and the Hub's dataset viewer.

        It has two configurations: `images`, and `pairs` with row numbers of images in `image_a` and `image_b`.
        """
        folder = Path(folder)
        columns = {"image_a": self.pairs[:, 0], "image_b": self.pairs[:, 1], "same": self.same}
        columns |= {key: values for key, values in (("fold", self.fold), ("group", self.group)) if values is not None}
        for config, table in (("images", read_images_into_table(self.images)), ("pairs", Dataset.from_dict(columns))):
            folder.joinpath(config).mkdir(parents=True, exist_ok=True)
            table.to_parquet(folder / config / "test-00000-of-00001.parquet")
        self._card().save(folder / "README.md")
        return folder

    @classmethod
    def from_parquet(
        cls, path: str | Path, name: str | None = None, revision: str | None = None
    ) -> "VerificationPairs":
        """Read pairs that [`VerificationPairs.to_parquet`] wrote.

        Args:
            path: The folder, or the Hub dataset it was pushed to.
            name: Prefix of the metrics; defaults to the one that the pairs were written with.
            revision: Revision of a Hub dataset.

        Raises:
            FileNotFoundError: if the folder does not exist, or lacks Parquet files of images or of pairs.
            ValueError: if a file is damaged, refers to images elsewhere, or a pair to a row that does not exist.
        """
        check_exists(path)
        if Path(path).is_dir():
            readme = Path(path, "README.md")
        else:
            readme = hf_hub_download(str(path), "README.md", repo_type="dataset", revision=revision)
        images, pairs = (_load_part(path, part, revision) for part in ("images", "pairs"))
        columns = pairs.with_format("numpy")[:]
        return cls(
            images,
            np.stack([columns["image_a"], columns["image_b"]], axis=1),
            columns["same"],
            columns.get("fold"),
            name or DatasetCard.load(readme).data.pretty_name,
            columns.get("group"),
        )

    def _card(self) -> DatasetCard:
        configs = [
            {"config_name": config, "data_files": [{"split": "test", "path": f"{config}/*.parquet"}]}
            for config in ("images", "pairs")
        ]
        data = DatasetCardData(pretty_name=self.name, task_categories=["image-feature-extraction"], configs=configs)
        text = CARD.format(
            name=self.name, images=len(self.images), genuine=self.same.sum(), impostor=(~self.same).sum()
        )
        return DatasetCard(f"---\n{data.to_yaml()}\n---\n{text}")

    def _check(self):
        if self.pairs.ndim != 2 or self.pairs.shape[1] != 2:
            raise ValueError(f"{self.name}: pairs must have shape (P, 2), found {self.pairs.shape}")
        for column in ("same", "fold", "group"):
            values = getattr(self, column)
            if values is not None and values.shape != (len(self.pairs),):
                raise ValueError(f"{self.name}: {len(self.pairs)} pairs, but {column} has shape {values.shape}")
        bad = np.flatnonzero(((self.pairs < 0) | (self.pairs >= len(self.images))).any(axis=1))
        if len(bad):
            raise ValueError(
                f"{self.name}: pair {bad[0]} is {tuple(self.pairs[bad[0]].tolist())}, but there are only "
                f"{len(self.images)} images"
            )


def _load_part(path: str | Path, part: str, revision: str | None) -> Dataset:
    if Path(path).is_dir():  # `load_dataset(path, part)` might return the cached data of another folder of that name
        files = sorted(Path(path, part).glob("[!.]*.parquet"))
        if not files:
            raise FileNotFoundError(f"{Path(path, part)} contains no Parquet files")
        return load_shards(files, Path(path))
    dataset = load_dataset(str(path), part, split="test", revision=revision)
    check_paths_of_hub_dataset(dataset, str(path))
    return dataset


def make_verification_pairs(dataset: Dataset, seed: int = 0, name: str = "verification") -> VerificationPairs:
    """Make all genuine pairs of an identity dataset and as many random impostor pairs, spread evenly over ten folds.

    Args:
        dataset: Identity data with `image` and `label`.
        seed: Seed for the choice of impostors and for the folds.
        name: Prefix of the metrics.

    Raises:
        ValueError: if no identity has two images, or there are too few impostor pairs.
    """
    labels = identity_labels(dataset)
    rng = np.random.default_rng(seed)
    genuine = _genuine_pairs(labels)
    impostor = _impostor_pairs(labels, len(genuine), rng)
    pairs = np.concatenate([rng.permutation(genuine), impostor])
    same = np.arange(len(pairs)) < len(genuine)
    fold = np.arange(len(pairs)) % len(genuine) % NUM_FOLDS
    order = np.argsort(fold, kind="stable")
    return VerificationPairs(dataset, pairs[order], same[order], fold[order], name)


def _genuine_pairs(labels: np.ndarray) -> np.ndarray:
    """All pairs of rows with the same label, (P, 2)."""
    order = np.argsort(labels, kind="stable")
    groups = np.split(order, np.flatnonzero(np.diff(labels[order])) + 1)
    pairs = [group[np.stack(np.triu_indices(len(group), k=1), axis=1)] for group in groups if len(group) > 1]
    if not pairs:
        raise ValueError("no identity has two images, so there are no genuine pairs. Add a second image of some people")
    return np.concatenate(pairs)


def _impostor_pairs(labels: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """`count` distinct random pairs of rows with different labels, (count, 2)."""
    size = len(labels)
    sizes = np.unique(labels, return_counts=True)[1]
    available = (size * size - (sizes * sizes).sum()) // 2
    if count > available:
        raise ValueError(
            f"{count} impostor pairs are required, as many as genuine ones, but {size} images have only {available}. "
            "Add people"
        )
    codes = np.array([], dtype=np.int64)  # a pair (a, b) with a < b, as a * size + b
    while len(codes) < count:
        a, b = np.sort(rng.integers(size, size=(2, 2 * count)), axis=0)
        different = labels[a] != labels[b]
        codes = np.concatenate([codes, (a * size + b)[different]])
        codes = codes[np.sort(np.unique(codes, return_index=True)[1])]  # distinct, in the order drawn
    return np.stack(np.divmod(codes[:count], size), axis=1)
