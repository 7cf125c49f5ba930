from .embedding import Embedder, Embeddings, embed_images
from .evaluator import Evaluator
from .metrics import ROC, cross_validated_accuracy, verification_metrics
from .verification import VerificationEvaluator
