"""What is loaded with a face model besides its weights."""

from pathlib import Path

from transformers import AutoImageProcessor
from transformers.utils import IMAGE_PROCESSOR_NAME, cached_file

from .image_processing_face import FaceImageProcessor


def load_image_processor(name_or_path: str | Path) -> FaceImageProcessor:
    """
    The image processor of a face model, folder or Hub name.

    Raises:
        FileNotFoundError: there is none: the crops' size and normalization are not known.
        OSError: there is no such folder or repository, it is closed to this user, or the Hub does not answer.
    """
    try:
        cached_file(name_or_path, IMAGE_PROCESSOR_NAME)
    except OSError as error:
        if "does not appear to have" not in str(error):  # transformers has one class for everything
            raise
        raise FileNotFoundError(
            f"{name_or_path} has no image processor ({IMAGE_PROCESSOR_NAME}), so the crops' size and normalization are "
            "not known: save one beside the model, `FaceImageProcessor(...).save_pretrained(folder)`."
        ) from error
    return AutoImageProcessor.from_pretrained(name_or_path)
