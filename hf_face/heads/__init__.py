"""Margin heads: margins, the exact margin softmax, Partial FC."""

from .head_files import load_head, load_head_optimizer, save_head
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
from .sharding import clip_grad_norm_

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
    "clip_grad_norm_",
    "load_head",
    "load_head_optimizer",
    "margin_logits",
    "margin_softmax_loss",
    "save_head",
    "step_sampled_rows_only",
]
