"""Loads what a face model needs in addition to its weights."""

from pathlib import Path

from transformers import AutoImageProcessor
from transformers.utils import IMAGE_PROCESSOR_NAME, cached_file

from ..files import check_own_files
from .image_processing_face import FaceImageProcessor


def load_image_processor(name_or_path: str | Path, trust_remote_code: bool = False) -> FaceImageProcessor:
    """
    Load the image processor of a face model from a folder or the Hub, without running code from there unless trusted.

    Raises:
        FileNotFoundError: if the model has no image processor.
        ValueError: if its settings are damaged, or it refers to files elsewhere.
        OSError: if the folder or repository does not exist or is not accessible, or the Hub cannot be reached.
    """
    if Path(name_or_path).is_dir():
        check_own_files(Path(name_or_path))  # transformers' errors do not name the file
    try:
        cached_file(name_or_path, IMAGE_PROCESSOR_NAME)
    except OSError as error:
        if "does not appear to have" not in str(error):  # transformers raises OSError for every failure
            raise
        raise FileNotFoundError(
            f"{name_or_path} has no image processor ({IMAGE_PROCESSOR_NAME}), so the crops' size and normalization are "
            "unknown. Save one with the model: `FaceImageProcessor(...).save_pretrained(folder)`."
        ) from error
    return AutoImageProcessor.from_pretrained(name_or_path, trust_remote_code=trust_remote_code)
