"""Protocols by name: what `scripts/evaluate.py` offers, and how each is built from files.

A protocol is a function of [`ProtocolArguments`] that returns the evaluators to run; adding one is a line in
[`PROTOCOLS`].
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path
from typing import Literal

from ..data import VerificationPairs, load_identities, load_verification_pairs
from ..embedding import EmbeddingCache
from .all_pairs import ALL_PAIRS_FARS, AllPairsEvaluator
from .evaluator import Evaluator
from .fairness import VerificationFairnessEvaluator, split_by_group
from .ijb import IJBEvaluator
from .ijb_files import load_ijb
from .metrics import DEFAULT_FARS
from .quality import QualityEvaluator
from .tinyface import TINYFACE_RANKS, IdentificationEvaluator, enroll_first, load_tinyface
from .verification import VerificationEvaluator

# Sets that everybody reports. All but XQLFW are shipped by InsightFace as `<name>.bin`.
VERIFICATION_SETS = ("lfw", "cfp_fp", "cfp_ff", "agedb_30", "calfw", "cplfw", "xqlfw")


@dataclass
class ProtocolArguments:
    """Where a protocol's data is and how to run it."""

    data: str = field(
        metadata={
            "help": "The protocol's data. Verification: a .bin, a pairs.txt, a CSV or Parquet of pairs, a Hub name, or "
            "a folder of the built-in sets (lfw.bin, cfp_fp.bin, ...). Fairness: pairs with a column `group`, a folder "
            "with one .bin a group, or RFW's own folder. ijb: the folder of IJB-B or IJB-C. tinyface: its folder. "
            "all_pairs, identification: identity data (a folder of people, RecordIO, Parquet, a Hub name, `orl`)."
        }
    )
    images: str | None = field(default=None, metadata={"help": "Folder of the images that a list of pairs names."})
    probes: str | None = field(
        default=None,
        metadata={
            "help": "Identity data to search in `data` by `identification`; if left out, everybody's first image in "
            "`data` is enrolled and the others are probes."
        },
    )
    flip: Literal["sum", "concat", "none"] = field(
        default="sum", metadata={"help": "How to join the embeddings of an image and of its flipped image."}
    )
    similarity: Literal["cosine", "squared_euclidean"] = field(
        default="cosine", metadata={"help": "What the verification thresholds are: similarities or distances."}
    )
    fars: list[float] | None = field(
        default=None,
        metadata={
            "help": "False accept rates to report: 1e-1 to 1e-6 if left out, 1e-4 to 1e-6 of `all_pairs`, which keeps "
            "as many impostor scores as the highest rate takes."
        },
    )
    far: float | None = field(
        default=None,
        metadata={
            "help": "False accept rate that sets the threshold of `quality` and `fairness`: if left out 1e-3, or the "
            "next power of ten that the pairs can show."
        },
    )
    quality: str | None = field(
        default=None, metadata={"help": "Column of the images with their quality; the embedding's norm if left out."}
    )

    switches: list[str] = field(
        default_factory=lambda: ["N1D1F1"],
        metadata={"help": "What weighs an image of `ijb`: embedding norm (N), detector score (D), flipped image (F)."},
    )
    cache_dir: str | None = field(
        default=None, metadata={"help": "Where `ijb` keeps its embeddings, so that an interrupted run goes on."}
    )

    @property
    def flip_or_none(self) -> str | None:
        """`flip` as evaluators take it."""
        return None if self.flip == "none" else self.flip


# Cached, so that protocols run together share the images, and with them the embeddings.
load_pairs = cache(load_verification_pairs)
load_identity_data = cache(load_identities)


def find_verification_set(name: str, data: str | Path, images: str | Path | None = None) -> VerificationPairs:
    """One of [`VERIFICATION_SETS`], from its own file or from a folder that holds it: as InsightFace's `.bin`,
    converted (a folder of Parquet), or as a list of pairs, `<name>_pairs.txt`, whose images are in `images` or in a
    folder beside it whose name begins with the set's (XQLFW; the aligned ones where there are several).

    Raises:
        FileNotFoundError: if `data` holds it in none of these ways.
    """
    if Path(data).is_file():
        return load_pairs(data, images=images, name=name)
    located = _locate(name, Path(data))
    if located is None:
        raise FileNotFoundError(
            f"{data} holds no {name}: expected {name}.bin, a folder {name} of Parquet files, or {name}_pairs.txt "
            "with a folder of aligned images"
        )
    path, folder = located
    return load_pairs(path, images=images or folder, name=name)


def _locate(name: str, folder: Path) -> tuple[Path, Path | None] | None:
    """The file or folder of a set, and the folder of its images where they are apart."""
    listing = folder / f"{name}_pairs.txt"
    if listing.is_file():
        folders = sorted(path for path in folder.glob(f"{name}*") if path.is_dir())
        return listing, next((path for path in folders if "aligned" in path.name), [*folders, folder][0])
    if (folder / f"{name}.bin").is_file():
        return folder / f"{name}.bin", None
    if any((folder / name).rglob("*.parquet")):
        return folder / name, None
    return None


def load_groups(data: str | Path, images: str | Path | None = None) -> dict[str, VerificationPairs]:
    """The pairs of each group of people: from RFW's own folder (`txts/<group>/<group>_pairs.txt`, photographs in
    `data/<group>` that are aligned by `txts/<group>/<group>_lmk.txt`, or aligned ones in `images`), a folder with one
    `.bin` a group, or pairs with a column `group`."""
    folder = Path(data)
    if lists := sorted(folder.glob("txts/*/*_pairs.txt")):
        return {path.parent.name: _load_rfw_group(path, folder, images) for path in lists}
    if files := sorted(folder.glob("*.bin")):
        return {path.stem: load_pairs(path) for path in files}
    return split_by_group(load_pairs(data, images=images))


def _load_rfw_group(path: Path, folder: Path, images: str | Path | None) -> VerificationPairs:
    group = path.parent.name
    if images is not None:
        return load_pairs(path, images=Path(images) / group, name=group)
    landmarks = path.with_name(f"{group}_lmk.txt")
    landmarks = landmarks if landmarks.is_file() else None
    return load_pairs(path, images=folder / "data" / group, name=group, landmarks=landmarks)


def _pairs_of(args: ProtocolArguments, name: str | None = None) -> list[VerificationPairs]:
    """The set called `name`; without a name the pairs that `data` is, or all built-in sets that it holds."""
    if name is not None:
        return [find_verification_set(name, args.data, args.images)]
    held = [each for each in VERIFICATION_SETS if _locate(each, Path(args.data)) is not None]
    if held:
        return [find_verification_set(each, args.data, args.images) for each in held]
    return [load_pairs(args.data, images=args.images)]


def build_verification(args: ProtocolArguments, name: str | None = None) -> list[Evaluator]:
    fars = args.fars or DEFAULT_FARS
    return [VerificationEvaluator(pairs, args.flip_or_none, args.similarity, fars) for pairs in _pairs_of(args, name)]


def build_quality(args: ProtocolArguments) -> list[Evaluator]:
    return [QualityEvaluator(pairs, args.quality, args.far, args.flip_or_none) for pairs in _pairs_of(args)]


def build_fairness(args: ProtocolArguments, name: str = "fairness") -> list[Evaluator]:
    groups = load_groups(args.data, args.images)
    return [VerificationFairnessEvaluator(groups, name, args.far, args.flip_or_none)]


def build_ijb(args: ProtocolArguments) -> list[Evaluator]:
    protocol = load_ijb(args.data)
    cache = EmbeddingCache(args.cache_dir) if args.cache_dir is not None else None
    return [IJBEvaluator(protocol, switches, args.fars or DEFAULT_FARS, cache=cache) for switches in args.switches]


def build_all_pairs(args: ProtocolArguments) -> list[Evaluator]:
    return [AllPairsEvaluator(load_identity_data(args.data), args.fars or ALL_PAIRS_FARS, args.flip_or_none)]


def build_identification(args: ProtocolArguments) -> list[Evaluator]:
    dataset = load_identity_data(args.data)
    gallery, probes = enroll_first(dataset) if args.probes is None else (dataset, load_identity_data(args.probes))
    return [IdentificationEvaluator(gallery, probes, args.flip_or_none)]


def build_tinyface(args: ProtocolArguments) -> list[Evaluator]:
    gallery, probes = load_tinyface(args.data, args.images)
    return [IdentificationEvaluator(gallery, probes, args.flip_or_none, TINYFACE_RANKS, name="tinyface")]


PROTOCOLS: dict[str, Callable[[ProtocolArguments], list[Evaluator]]] = {
    "verification": build_verification,
    **{name: partial(build_verification, name=name) for name in VERIFICATION_SETS},
    "quality": build_quality,
    "fairness": build_fairness,
    "rfw": partial(build_fairness, name="rfw"),
    "ijb": build_ijb,
    "all_pairs": build_all_pairs,
    "identification": build_identification,
    "tinyface": build_tinyface,
}
