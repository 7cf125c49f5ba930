"""What is loaded with a face model besides its weights."""

from pathlib import Path

from transformers import AutoImageProcessor

from .image_processing_face import FaceImageProcessor


def load_image_processor(name_or_path: str | Path) -> FaceImageProcessor:
    """
    The image processor of a face model, folder or Hub name.

    Raises:
        FileNotFoundError: there is none: the crops' size and normalisation are not known.
    """
    try:
        return AutoImageProcessor.from_pretrained(name_or_path)
    except OSError as error:
        raise FileNotFoundError(
            f"{name_or_path} has no image processor (preprocessor_config.json), so the crops' size and normalisation "
            "are not known: save one beside the model, `FaceImageProcessor(...).save_pretrained(folder)`."
        ) from error
