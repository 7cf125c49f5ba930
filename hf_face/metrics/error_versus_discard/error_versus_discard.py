"""Error versus discard: does a quality score predict which comparisons are wrong?"""

import datasets
import evaluate

from hf_face.evaluation.metrics import ErrorDiscard

_DESCRIPTION = """\
The error-versus-discard characteristic of a quality score (Grother and Tabassi 2007): the error rate of the remaining
comparisons after discarding those with the lowest quality, and the area under it. Smaller is better; with a useless
quality, the error rate does not change.
"""

_KWARGS_DESCRIPTION = """
Args:
    predictions (`list[float]`): quality of each comparison, higher is better; for a pair of images, the lower of both.
    references (`list[int]`): 1 if the comparison is wrong, 0 otherwise.
    discards (`list[float]`): shares of comparisons to discard, by default 0.1, 0.2 and 0.3.
Returns:
    error: the error rate of all comparisons.
    error@discard=...: the error rate after discarding at most this share. Equal qualities are discarded together.
    area, area@discard=...: the area under the whole curve, and up to this share.
Examples:
    >>> error_versus_discard = evaluate.load("hf_face/metrics/error_versus_discard")
    >>> quality, wrong = [0.1, 0.9, 0.3, 0.8, 0.7], [1, 0, 0, 0, 0]
    >>> results = error_versus_discard.compute(predictions=quality, references=wrong, discards=[0.2])
    >>> results["error"], results["error@discard=0.2"]
    (0.2, 0.0)
"""

_CITATION = """\
@article{grother2007performance,
  title = {Performance of Biometric Quality Measures},
  author = {Grother, Patrick and Tabassi, Elham},
  journal = {IEEE Transactions on Pattern Analysis and Machine Intelligence},
  volume = {29},
  number = {4},
  pages = {531--543},
  year = {2007},
}
"""


@evaluate.utils.file_utils.add_start_docstrings(_DESCRIPTION, _KWARGS_DESCRIPTION)
class ErrorVersusDiscard(evaluate.Metric):
    def _info(self):
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation=_CITATION,
            inputs_description=_KWARGS_DESCRIPTION,
            features=datasets.Features(
                {"predictions": datasets.Value("float64"), "references": datasets.Value("int32")}
            ),
        )

    def _compute(self, predictions, references, discards=(0.1, 0.2, 0.3)):
        curve = ErrorDiscard.from_errors(references, predictions)
        return {
            "error": curve.at(0.0),
            **{f"error@discard={discard:g}": curve.at(discard) for discard in discards},
            "area": curve.area(),
            **{f"area@discard={discard:g}": curve.area(discard) for discard in discards},
        }
