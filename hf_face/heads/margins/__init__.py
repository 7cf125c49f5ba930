"""Margins: what is done to the cosine between an embedding and its own class center.

[`Margin`] says how to write one. docs/margins.md lists them, and where the published implementations differ.
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
    The margin with this name in recipes: `build_margin("arcface", m=0.4)`.

    Raises:
        ValueError: for a name that is not known, or an option that the margin does not have.
    """
    return MARGINS[name].build(**options)


registry.import_modules(__name__)  # a new file's margins are known by name without a line here
