"""Folders of photographs become folders of aligned crops, which training and evaluation take."""

import os
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

from PIL import Image
from tqdm.auto import tqdm

from ..data.image_folder import list_images
from ..models.alignment import ARCFACE_SIZE, align_faces
from ..models.face_detection import FaceDetector, YuNetDetector
from ..models.pixels import read_photograph
from ..user_input import check_new_folder, check_outside


@dataclass
class CroppedFolder:
    """
    What [`crop_folder`] made of a folder of photographs.

    Args:
        crops: Files with a crop, relative to the output folder.
        without_face: Photographs in which no face was found, and that have no crop.
        with_several: Photographs with several faces, of which the largest was cropped.
    """

    crops: list[str] = field(default_factory=list)
    without_face: list[str] = field(default_factory=list)
    with_several: list[str] = field(default_factory=list)


def crop_folder(
    photographs: str | Path,
    output_dir: str | Path,
    image_size: int = ARCFACE_SIZE,
    detector: FaceDetector | None = None,
) -> CroppedFolder:
    """
    Write an aligned crop of the largest face in each photograph, to the same place in another folder, as PNG.

    Args:
        photographs: A folder, searched recursively.
        output_dir: The folder of crops. It appears when all are written.
        image_size: Height and width of the crops.
        detector: Finds the faces; defaults to [`YuNetDetector`].

    Returns:
        The files that were written, and the photographs without a face or with several.

    Raises:
        ValueError: if the output folder is not empty or lies in the folder of photographs, no photograph has a face, or
            a file is not an image.
    """
    photographs, output_dir = Path(photographs), Path(output_dir)
    check_new_folder(output_dir)
    check_outside(output_dir, photographs)
    detector = YuNetDetector() if detector is None else detector
    made = CroppedFolder()
    output_dir.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=output_dir.parent) as temporary:
        unfinished = Path(temporary, output_dir.name)
        for name in tqdm(list_images(photographs), desc="Cropping", unit=" photographs"):
            pixels = read_photograph(photographs / name)
            ((boxes, landmarks, _),) = detector.detect([pixels])
            if not len(boxes):
                made.without_face.append(name)
                continue
            if len(boxes) > 1:
                made.with_several.append(name)
            largest = (boxes[:, 2:] - boxes[:, :2]).prod(1).argmax()
            (crop,) = align_faces([pixels], landmarks[largest : largest + 1], image_size, antialias=True)
            file = (unfinished / name).with_suffix(".png")
            file = unfinished / f"{name}.png" if file.exists() else file  # of 1.jpg and 1.tif
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(crop.permute(1, 2, 0).numpy()).save(file)
            made.crops.append(str(file.relative_to(unfinished)))
        if not made.crops:
            raise ValueError(f"{photographs} has no photographs in which a face was found.")
        os.rename(unfinished, output_dir)
    return made


__all__ = ["CroppedFolder", "crop_folder"]
