"""Evaluation protocols: embeddings in, a flat dict of metrics and figures out."""

from ..embedding import Embedder, EmbeddingCache, Embeddings, embed_images
from .all_pairs import AllPairsEvaluator, all_pairs_scores
from .clustering import clustering_metrics
from .comparison_scores import ComparisonScores
from .evaluator import Evaluator, Findings
from .fairness import FairnessEvaluator, VerificationFairnessEvaluator, split_by_group
from .identification import IdentificationEvaluator, SearchResult, enroll_first, search
from .ijb import IJBEvaluator
from .ijb_files import IJBProtocol, load_ijb
from .metrics import ROC, ErrorDiscard, cross_validated_accuracy, verification_metrics
from .protocols import load_protocol, load_protocols
from .quality import QualityEvaluator
from .run import evaluate_model
from .templates import image_weights, pair_scores, pool_templates
from .tinyface import TinyFaceEvaluator, load_tinyface
from .verification import FolderVerificationEvaluator, VerificationEvaluator

__all__ = [
    "ROC",
    "AllPairsEvaluator",
    "ComparisonScores",
    "Embedder",
    "EmbeddingCache",
    "Embeddings",
    "ErrorDiscard",
    "Evaluator",
    "FairnessEvaluator",
    "Findings",
    "FolderVerificationEvaluator",
    "IJBEvaluator",
    "IJBProtocol",
    "IdentificationEvaluator",
    "QualityEvaluator",
    "SearchResult",
    "TinyFaceEvaluator",
    "VerificationEvaluator",
    "VerificationFairnessEvaluator",
    "all_pairs_scores",
    "clustering_metrics",
    "cross_validated_accuracy",
    "embed_images",
    "enroll_first",
    "evaluate_model",
    "image_weights",
    "load_ijb",
    "load_protocol",
    "load_protocols",
    "load_tinyface",
    "pair_scores",
    "pool_templates",
    "search",
    "split_by_group",
    "verification_metrics",
]
