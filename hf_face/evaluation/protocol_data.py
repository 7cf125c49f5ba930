"""The data of protocols, from wherever recipes and command lines say it lies."""

import re
from pathlib import Path

from datasets import Dataset

from ..data import VerificationPairs, load_identities, load_verification_pairs
from ..registry import protocols

PAIR_SUFFIXES = (".bin", ".txt", ".csv")
HUB_NAME = re.compile(r"[\w-][\w.-]*/[\w.-]+")  # org/name
FILE_SUFFIXES = (".bin", ".txt", ".csv", ".parquet", ".rec", ".tar", ".tgz", ".gz")


def looks_like_path(source: str | Path) -> bool:
    """Whether it can be nothing but a file or folder, be it there or not."""
    text = str(source)
    return Path(source).exists() or text.endswith(FILE_SUFFIXES) or text.startswith((".", "/")) or text.count("/") > 1


def check_data(source: str | Path) -> None:
    """
    Raises:
        FileNotFoundError: if it is no file or folder, and no name that a data set could have on the Hub.
    """
    on_hub = HUB_NAME.fullmatch(str(source)) and not looks_like_path(source)
    if not on_hub and not Path(source).exists():
        raise FileNotFoundError(f"no such file or folder: {source} (and data sets on the Hub are called org/name)")


def load_people(source: str | Path) -> Dataset:
    """Identity data: a folder with one folder of photographs a person, RecordIO, Parquet, a Hub data set, or "orl"."""
    if str(source) != "orl":
        check_data(source)
    return load_identities(source)


def find_pairs(
    data: str | Path, images: str | Path | None = None, set_name: str | None = None
) -> list[VerificationPairs]:
    """
    Verification pairs: those that `data` is, or those of the published sets that the folder `data` holds.

    Args:
        data (`str` or `Path`):
            What [`load_verification_pairs`] takes, or a folder that holds published sets: each as InsightFace's
            `.bin`, converted (a folder of Parquet files), or as a list, `<set>_pairs.txt`, with its images in `images`
            or in a folder beside it whose name begins with the set's (XQLFW; the aligned ones where there are several).
        images (`str` or `Path`, *optional*): Where the images of a list are.
        set_name (`str`, *optional*): The published set that is meant; all that the folder holds if left out.

    Raises:
        FileNotFoundError: if there is no such file or folder, or it holds no pairs.
        ValueError: if it is a file of another kind.
    """
    folder = Path(data)
    if not folder.is_dir() or has_pairs(folder):
        return [load_pairs(data, images, set_name)]
    wanted = published_sets() if set_name is None else [set_name]
    located = {name: found for name in wanted if (found := _locate(name, folder)) is not None}
    if not located:
        raise FileNotFoundError(_nothing_found(folder, wanted))
    return [load_verification_pairs(path, images or beside, name) for name, (path, beside) in located.items()]


def load_pairs(data: str | Path, images: str | Path | None = None, name: str | None = None) -> VerificationPairs:
    """[`load_verification_pairs`], with errors that tell a path from a Hub data set."""
    check_data(data)
    if Path(data).is_file() and Path(data).suffix not in PAIR_SUFFIXES:
        raise ValueError(
            f"{data} holds no verification pairs: expected a file {', '.join(PAIR_SUFFIXES)}, or the folder that "
            "VerificationPairs.to_parquet writes"
        )
    return load_verification_pairs(data, images=images, name=name)


def has_pairs(folder: Path) -> bool:
    """Whether it is a folder that [`VerificationPairs.to_parquet`] wrote."""
    return any(folder.glob("pairs/*.parquet"))


def published_sets() -> list[str]:
    """Names of the verification sets in the registry."""
    return [entry.presets["set_name"] for entry in protocols.values() if "set_name" in entry.presets]


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


def _nothing_found(folder: Path, wanted: list[str]) -> str:
    if len(wanted) == 1:
        (name,) = wanted
        return (
            f"{folder} holds no {name}: expected {name}.bin, a folder {name} of Parquet files, or {name}_pairs.txt "
            "with a folder of aligned images"
        )
    return (
        f"{folder} holds no verification pairs: expected the folders images and pairs that "
        f"VerificationPairs.to_parquet writes, or one of the sets {', '.join(wanted)} as <set>.bin, as a folder <set> "
        "of Parquet files, or as <set>_pairs.txt with a folder of aligned images. The protocol 'folder' makes pairs of "
        "a folder with one folder of photographs a person."
    )
