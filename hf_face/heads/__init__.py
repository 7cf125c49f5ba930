"""Margin heads: margins, the exact margin softmax, Partial FC."""

from .margin_head import MarginHead, MarginHeadOutput
from .margin_softmax import margin_logits, margin_softmax_loss
from .margins import (
    MARGINS,
    AdaFaceMargin,
    ArcFaceMargin,
    CombinedMargin,
    CosFaceMargin,
    CurricularFaceMargin,
    ElasticArcFaceMargin,
    ElasticCosFaceMargin,
    MagFaceMargin,
    Margin,
    NoMargin,
    SphereFaceMargin,
    build_margin,
)
from .partial_fc import step_sampled_rows_only

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
    "MarginHead",
    "MarginHeadOutput",
    "NoMargin",
    "SphereFaceMargin",
    "build_margin",
    "margin_logits",
    "margin_softmax_loss",
    "step_sampled_rows_only",
]
