from .embedding import Embedder, Embeddings, embed_images
from .evaluator import Evaluator
from .fairness import FairnessEvaluator, VerificationFairnessEvaluator, split_by_group
from .metrics import ROC, ErrorDiscard, cross_validated_accuracy, verification_metrics
from .quality import QualityEvaluator
from .verification import VerificationEvaluator
