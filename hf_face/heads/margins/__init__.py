"""Margins: functions of the cosine between an embedding and its own class center.

See [`Margin`] for how to write one, and docs/margins.md for a list and the differences between published
implementations.
"""

from ... import registry
from .adaptive import AdaFaceMargin, MagFaceMargin
from .angular import ArcFaceMargin, CombinedMargin, CosFaceMargin, NoMargin, SphereFaceMargin
from .base import Margin, add_angle, angle_of
from .curricular import CurricularFaceMargin
from .elastic import ElasticArcFaceMargin, ElasticCosFaceMargin

MARGINS = registry.margins


def build_margin(name: str, **options) -> Margin:
    """
    Build a margin by its name in recipes: `build_margin("arcface", m=0.4)`.

    Raises:
        ValueError: for an unknown name or option.
    """
    return MARGINS[name].build(**options)


registry.import_modules(__name__)  # registers the margins of new files without listing them here

__all__ = [
    "MARGINS",
    "AdaFaceMargin",
    "ArcFaceMargin",
    "CombinedMargin",
    "CosFaceMargin",
    "CurricularFaceMargin",
    "ElasticArcFaceMargin",
    "ElasticCosFaceMargin",
    "MagFaceMargin",
    "Margin",
    "NoMargin",
    "SphereFaceMargin",
    "add_angle",
    "angle_of",
    "build_margin",
]
