"""Draws found faces and what was decided about them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFont

from ..models.pixels import read_photograph

GREEN, RED, BLUE = "#1a9850", "#d73027", "#4575b4"


def annotate(
    image: Any, faces: Sequence[dict[str, Any]], labels: Sequence[str] | None = None, color: str = BLUE
) -> Image.Image:
    """
    Draw the boxes and landmarks of faces into a copy of their photograph.

    Args:
        image: A photograph, as [`read_photograph`] takes it.
        faces: Faces as the pipelines describe them, with `box` and `landmarks`.
        labels: A line of text above each box; defaults to the detector's scores.
        color: Color of boxes, landmarks and labels, as Pillow takes it.

    Returns:
        The picture, upright, of the photograph's size.

    Raises:
        FileNotFoundError: if the photograph does not exist.
        ValueError: if it is not an image.
    """
    picture = Image.fromarray(read_photograph(image))
    draw = ImageDraw.Draw(picture)
    width = max(2, round(max(picture.size) / 300))
    font = ImageFont.load_default(max(10, round(max(picture.size) / 40)))
    labels = [f"{face['score']:.2f}" for face in faces] if labels is None else labels
    for face, label in zip(faces, labels, strict=True):
        box = face["box"]
        left, top = box["xmin"], box["ymin"]
        draw.rectangle((left, top, box["xmax"], box["ymax"]), outline=color, width=width)
        for x, y in face["landmarks"]:
            draw.ellipse((x - width, y - width, x + width, y + width), fill=color)
        _write(draw, (left, top), label, color, font)
    return picture


def annotate_pair(images: Sequence[Any], answer: dict[str, Any], height: int = 480) -> Image.Image:
    """
    Draw two compared photographs beside each other, with the answer of the pipeline "face-verification" below.

    Args:
        images: The two photographs.
        answer: The pipeline's answer.
        height: Height of the photographs in the picture, in pixels.

    Returns:
        The picture, with the answer in green or red.
    """
    color = GREEN if answer["same"] else RED
    pictures = [annotate(image, [face], color=color) for image, face in zip(images, answer["faces"], strict=True)]
    pictures = [each.resize((max(1, round(each.width * height / each.height)), height)) for each in pictures]
    font = ImageFont.load_default(24)
    sheet = Image.new("RGB", (sum(each.width for each in pictures), height + 40), "white")
    sheet.paste(pictures[0], (0, 0))
    sheet.paste(pictures[1], (pictures[0].width, 0))
    decision = "the same person" if answer["same"] else "two people"
    text = f"{decision}: similarity {answer['similarity']:.3f}, threshold {answer['threshold']:.3f}"
    ImageDraw.Draw(sheet).text((sheet.width / 2, height + 20), text, fill=color, font=font, anchor="mm")
    return sheet


def save_picture(picture: Image.Image, path: str | Path) -> None:
    """Save a picture, making its folder."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    picture.save(path)


def _write(draw: ImageDraw.ImageDraw, corner: tuple[float, float], text: str, color: str, font) -> None:
    """White text on color, above a corner, or below if it is at the top."""
    left, top, right, bottom = draw.textbbox(corner, text, font=font, anchor="lb")
    if top < 0:
        left, top, right, bottom = draw.textbbox(corner, text, font=font, anchor="lt")
    draw.rectangle((left, top, right + 2, bottom), fill=color)
    draw.text((left + 1, bottom), text, fill="white", font=font, anchor="lb")


__all__ = ["annotate", "annotate_pair"]
