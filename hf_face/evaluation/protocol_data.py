"""Loading the data of protocols as specified in recipes and on command lines."""

from pathlib import Path

from ..data import VerificationPairs, load_verification_pairs
from ..registry import protocols
from ..user_input import check_exists, check_path

PAIR_SUFFIXES = (".bin", ".txt", ".csv")


def find_pairs(
    data: str | Path, images: str | Path | None = None, set_name: str | None = None
) -> list[VerificationPairs]:
    """
    Load verification pairs from `data`, or all published sets found in the folder `data`.

    Args:
        data (`str` or `Path`):
            What [`load_verification_pairs`] takes, or a folder of published sets: each as InsightFace's `.bin`,
            converted (a folder of Parquet files), or as a list, `<set>_pairs.txt`, with its images in `images` or in
            a folder next to it named `<set>*` (XQLFW; the aligned images if there are several).
        images (`str` or `Path`, *optional*): Folder of the images of a list.
        set_name (`str`, *optional*): The published set to load. By default, all sets in the folder are loaded.

    Raises:
        FileNotFoundError: if the file or folder does not exist or contains no pairs.
        ValueError: if the file type is not supported.
    """
    if images is not None:
        check_path(images)
    folder = Path(data)
    if not folder.is_dir() or has_pairs(folder):
        return [load_pairs(data, images, set_name)]
    wanted = published_sets() if set_name is None else [set_name]
    located = {name: found for name in wanted if (found := _locate(name, folder)) is not None}
    if not located:
        raise FileNotFoundError(_nothing_found(folder, wanted))
    return [load_verification_pairs(path, images or beside, name) for name, (path, beside) in located.items()]


def load_pairs(data: str | Path, images: str | Path | None = None, name: str | None = None) -> VerificationPairs:
    """[`load_verification_pairs`], with errors that distinguish paths from Hub datasets."""
    check_exists(data)
    if Path(data).is_file() and Path(data).suffix not in PAIR_SUFFIXES:
        raise ValueError(
            f"{data} contains no verification pairs: expected a file {', '.join(PAIR_SUFFIXES)}, or the folder that "
            "VerificationPairs.to_parquet writes"
        )
    return load_verification_pairs(data, images=images, name=name)


def has_pairs(folder: Path) -> bool:
    """Whether the folder was written by [`VerificationPairs.to_parquet`]."""
    return any(folder.glob("pairs/*.parquet"))


def published_sets() -> list[str]:
    """Names of the verification sets in the registry."""
    return [entry.presets["set_name"] for entry in protocols.values() if "set_name" in entry.presets]


def _locate(name: str, folder: Path) -> tuple[Path, Path | None] | None:
    """The file or folder of a set, and the folder of its images if they are separate."""
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
            f"{folder} contains no {name}: expected {name}.bin, a folder {name} of Parquet files, or {name}_pairs.txt "
            "with a folder of aligned images"
        )
    return (
        f"{folder} contains no verification pairs: expected the folders images and pairs that "
        f"VerificationPairs.to_parquet writes, or one of the sets {', '.join(wanted)} as <set>.bin, as a folder <set> "
        "of Parquet files, or as <set>_pairs.txt with a folder of aligned images. The protocol 'folder' makes pairs "
        "from a folder with one subfolder of images per person."
    )
