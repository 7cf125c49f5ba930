from ..embedding import Embedder, EmbeddingCache, Embeddings, embed_images
from .all_pairs import AllPairsEvaluator, all_pairs_scores
from .comparison_scores import ComparisonScores
from .evaluator import Evaluator
from .fairness import FairnessEvaluator, VerificationFairnessEvaluator, split_by_group
from .identification import SearchResult, search
from .ijb import IJBEvaluator
from .ijb_files import IJBProtocol, load_ijb
from .metrics import ROC, ErrorDiscard, cross_validated_accuracy, verification_metrics
from .quality import QualityEvaluator
from .templates import image_weights, pair_scores, pool_templates
from .tinyface import IdentificationEvaluator, enroll_first, load_tinyface
from .verification import VerificationEvaluator
