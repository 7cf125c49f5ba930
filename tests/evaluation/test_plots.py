import numpy as np
import pytest
from PIL import Image

from hf_face.evaluation import ROC, ComparisonScores, ErrorDiscard
from hf_face.evaluation.plots import plot_cmc, plot_det, plot_error_discard, plot_roc, plot_scores, save_figure


@pytest.fixture
def same_and_scores():
    rng = np.random.default_rng(0)
    same = np.arange(400) % 2 == 0
    return same, rng.normal(same * 2.0)


def line(figure, label: str):
    return next(line for line in figure.axes[0].lines if line.get_label().startswith(label))


def test_roc_starts_below_one_impostor_on_a_logarithmic_axis(same_and_scores):
    roc = ROC.from_scores(*same_and_scores)
    figure = plot_roc({"lfw": roc})
    far, tar = line(figure, "lfw (AUC").get_data()
    assert figure.axes[0].get_xscale() == "log"
    assert far[0] == 0.5 / 200  # zero has no place on the axis
    assert far[-1] == tar[-1] == 1
    assert (figure.axes[0].get_xlim(), figure.axes[0].get_ylim()) == ((0.5 / 200, 1), (0, 1.01))
    assert figure.axes[0].get_legend() and all(line.get_visible() for line in figure.axes[0].get_xgridlines())
    assert tar[np.searchsorted(far, 0.1, side="right") - 1] == roc.at_far(0.1).tar


def test_det_marks_the_equal_error_rate(same_and_scores):
    roc = ROC.from_scores(*same_and_scores)
    figure = plot_det({"lfw": roc})
    axes = figure.axes[0]
    assert axes.get_xscale() == axes.get_yscale() == "log"
    marks = [mark.get_data() for mark in axes.lines if mark.get_marker() == "o"]
    assert marks == [([roc.eer], [roc.eer])]
    far, frr = line(figure, "lfw (EER").get_data()
    assert frr[np.searchsorted(far, 0.1, side="right") - 1] == 1 - roc.at_far(0.1).tar
    assert np.isnan(frr[-1]), "zero has no place on the axis"
    assert (axes.get_xlim(), axes.get_ylim()) == ((0.5 / 200, 1), (0.5 / 200, 1))
    assert [values.tolist() for values in line(figure, "FAR = FRR").get_data()] == [[0.5 / 200, 1]] * 2


def test_det_of_the_low_end_alone_marks_no_equal_error_rate(same_and_scores):
    same, scores = same_and_scores
    whole = ComparisonScores.from_pairs(same, scores)
    tail = ComparisonScores(whole.genuine, whole.impostors[-20:], whole.num_impostors)
    axes = plot_det({"mfr": tail.curve()}).axes[0]
    assert not [mark for mark in axes.lines if mark.get_marker() == "o"]
    assert "mfr" in [text.get_text() for text in axes.get_legend().get_texts()]


def test_histograms_count_each_kind(same_and_scores):
    same, scores = same_and_scores
    figure = plot_scores(scores[same], scores[~same], name="lfw")
    labels = [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
    assert labels == ["200 impostor pairs", "200 genuine pairs"]
    assert [len(bars) for bars in figure.axes[0].containers] == [60, 60]
    ends = figure.axes[0].containers[0][0].get_x(), figure.axes[0].containers[1][-1].get_corners()[1][0]
    assert ends == pytest.approx((scores.min(), scores.max()))
    areas = [sum(bar.get_height() * bar.get_width() for bar in bars) for bars in figure.axes[0].containers]
    assert areas == pytest.approx([1, 1])


def test_error_discard_is_drawn_to_the_last_comparison():
    curve = ErrorDiscard.from_errors(np.array([1, 0, 0, 1]), np.array([1, 2, 3, 4]))
    figure = plot_error_discard({"norm": curve})
    discarded, error = line(figure, "norm (area").get_data()
    assert discarded.tolist() == [0, 0.25, 0.5, 0.75, 1]
    assert error.tolist() == [1 / 2, 1 / 3, 1 / 2, 1, 1]
    assert figure.axes[0].get_xlim() == (0, 1) and figure.axes[0].get_ylim()[0] == 0


def test_cmc_is_drawn_from_rank_one():
    figure = plot_cmc({"faces": np.array([0.25, 0.5, 1.0])})
    drawn = line(figure, "faces (rank 1: 0.2500)")
    assert [values.tolist() for values in drawn.get_data()] == [[1, 2, 3], [0.25, 0.5, 1.0]]
    assert figure.axes[0].get_ylim()[1] == 1.005


def test_figures_are_saved_as_png_without_pyplot(same_and_scores, tmp_path):
    import sys

    file = tmp_path / "new" / "figures" / "roc.png"
    save_figure(plot_roc({"lfw": ROC.from_scores(*same_and_scores)}), file)
    with Image.open(file) as image:
        assert (image.format, image.size) == ("PNG", (960, 720))
    assert "matplotlib.pyplot" not in sys.modules
