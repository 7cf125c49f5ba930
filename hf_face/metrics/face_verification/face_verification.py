"""Face verification: how well a similarity score separates genuine from impostor pairs."""

import datasets
import evaluate

from hf_face.evaluation.metrics import DEFAULT_FARS, verification_metrics

_DESCRIPTION = """\
Metrics of 1:1 face verification from one similarity score per pair: ten-fold accuracy (LFW's protocol), the true
accept rate at given false accept rates (TAR@FAR), the equal error rate (EER) and the area under the ROC curve (AUC).
"""

_KWARGS_DESCRIPTION = """
Args:
    predictions (`list[float]`): similarity of the two images of each pair; a pair is accepted if it is at or above the
        threshold. Negate distances.
    references (`list[int]`): 1 if both images show the same person, 0 otherwise.
    fars (`list[float]`): false accept rates to report, by default 1e-1 to 1e-6. Rates below one impostor pair are not
        measurable and left out.
    folds (`list[int]`, *optional*): the cross-validation fold of each pair; by default, folds are consecutive.
    num_folds (`int`): number of consecutive folds, by default 10.
Returns:
    accuracy, accuracy_std: mean and standard deviation over folds, each at the most accurate threshold on the other
        folds.
    threshold: mean of the folds' thresholds.
    auc, eer: area under the ROC curve, equal error rate.
    tar@far=..., threshold@far=...: largest true accept rate at a false accept rate of at most the target.
    finest_far: the smallest measurable false accept rate, one impostor pair.
    num_genuine, num_impostors: number of pairs of each kind.
Examples:
    >>> face_verification = evaluate.load("hf_face/metrics/face_verification")
    >>> scores, same = [0.9, 0.2, 0.8, 0.1, 0.7, 0.6], [1, 0, 1, 0, 1, 0]
    >>> results = face_verification.compute(predictions=scores, references=same, fars=[0.5], num_folds=2)
    >>> results["auc"], results["tar@far=5e-1"]
    (1.0, 1.0)
"""

_CITATION = """\
@techreport{huang2007labeled,
  title = {Labeled Faces in the Wild: A Database for Studying Face Recognition in Unconstrained Environments},
  author = {Huang, Gary B. and Ramesh, Manu and Berg, Tamara and Learned-Miller, Erik},
  institution = {University of Massachusetts, Amherst},
  number = {07-49},
  year = {2007},
}
"""


@evaluate.utils.file_utils.add_start_docstrings(_DESCRIPTION, _KWARGS_DESCRIPTION)
class FaceVerification(evaluate.Metric):
    def _info(self):
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation=_CITATION,
            inputs_description=_KWARGS_DESCRIPTION,
            features=datasets.Features(
                {"predictions": datasets.Value("float64"), "references": datasets.Value("int32")}
            ),
            reference_urls=["http://vis-www.cs.umass.edu/lfw/lfw.pdf"],
        )

    def _compute(self, predictions, references, fars=DEFAULT_FARS, folds=None, num_folds=10):
        return verification_metrics(references, predictions, folds, fars, num_folds)
