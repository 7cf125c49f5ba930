import json
import tracemalloc
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_curve
from sklearn.model_selection import KFold

from hf_face.evaluation import (
    ROC,
    Embedder,
    QualityEvaluator,
    VerificationEvaluator,
    VerificationFairnessEvaluator,
    cross_validated_accuracy,
    embed_images,
    split_by_group,
    verification_metrics,
)
from hf_face.evaluation.metrics import cosine_similarities, format_far, squared_distances
from hf_face.evaluation.reference import (
    folds_are_mixed,
    insightface_accuracy,
    insightface_val,
    timm_face_accuracy,
)


@pytest.fixture(scope="module", params=[np.float32, np.float64])
def reference(request, fixtures) -> dict:
    """Embeddings of 600 pairs and the figures that the references' own scripts print for them."""
    figures = dict(np.load(fixtures / "evaluation" / "verification.npz"))
    embeddings = figures["embeddings"].astype(request.param)
    return figures | {
        "distances": squared_distances(embeddings[0::2], embeddings[1::2]),
        "scores": cosine_similarities(embeddings[0::2], embeddings[1::2]),
        "same": figures["actual_issame"],
    }


def test_insightface_accuracy_is_the_references(reference):
    folds = insightface_accuracy(reference["distances"], reference["same"])
    assert folds.accuracies.tolist() == reference["accuracy_folds"].tolist()
    assert folds.thresholds.tolist() == reference["threshold_folds"].tolist()
    assert (folds.accuracies.mean(), folds.accuracies.std()) == (reference["accuracy_mean"], reference["accuracy_std"])
    assert folds.tpr.tolist() == reference["tpr"].tolist()
    assert folds.fpr.tolist() == reference["fpr"].tolist()


def test_insightface_val_is_the_references(reference):
    val = insightface_val(reference["distances"], reference["same"])
    assert (val.val, val.val_std, val.far) == (reference["val"], reference["val_std"], reference["far"])
    np.testing.assert_allclose(val.thresholds, reference["val_threshold_folds"], atol=1e-9, rtol=0)


def test_timm_face_accuracy_is_the_references(reference):
    folds = timm_face_accuracy(reference["scores"], reference["same"])
    assert folds.accuracies.tolist() == reference["kfold_accuracy_folds"].tolist()
    assert folds.accuracies.mean() == reference["kfold_accuracy"]


def insightface_val_by_hand(distances, same, far_target):
    thresholds, vals, fars, chosen = np.arange(0, 4, 0.001), [], [], []
    for train, test in KFold(10).split(distances):
        far = (distances[train][~same[train]][:, None] < thresholds).mean(0)
        chosen.append(np.interp(far_target, far, thresholds) if far.max() >= far_target else 0)
        vals.append((distances[test][same[test]] < chosen[-1]).mean())
        fars.append((distances[test][~same[test]] < chosen[-1]).mean())
    return np.mean(vals), np.std(vals), np.mean(fars), chosen


@pytest.mark.parametrize("target", [0.05, 0.3, 1.0])
@pytest.mark.parametrize("largest", [0.4, 4.0])
def test_insightface_val_searches_thresholds_from_0_up_to_4(target, largest):
    same = np.arange(200) % 2 == 0
    distances = np.random.default_rng(0).uniform(0, largest, 200)
    distances[~same] = distances[~same] / distances[~same].max() * largest  # at 4, no threshold accepts all impostors
    distances[same] /= 3
    val = insightface_val(distances, same, target)
    expected = insightface_val_by_hand(distances, same, target)
    assert val[:3] == pytest.approx(expected[:3])
    np.testing.assert_allclose(val.thresholds, expected[3], atol=1e-9)


def test_insightface_accepts_what_is_strictly_below_the_threshold():
    same = np.arange(40) % 2 == 0
    distances = np.where(same, 0.5, np.arange(0, 4, 0.01)[51])  # the first threshold that accepts all genuine pairs
    folds = insightface_accuracy(distances, same)
    assert (folds.thresholds == distances[1]).all() and (folds.accuracies == 1).all()
    # No threshold has this FAR, so that it is 0, which no distance is below.
    val = insightface_val(np.where(same | (np.arange(40) == 1), 0.0, 4.0), same, far_target=0.5)
    assert (val.val, val.far, val.thresholds.tolist()) == (0, 0, [0] * 10)


def test_insightface_rates_of_a_fold_with_one_or_no_pair_of_a_kind():
    same = np.array([True] + [False] * 9 + [True] * 5)
    folds = insightface_accuracy(np.linspace(0.1, 3.9, 15), same, num_folds=3)
    assert folds.tpr[-1] == pytest.approx(2 / 3), "one pair, none, five"
    assert folds.fpr[-1] == pytest.approx(2 / 3)


@pytest.mark.filterwarnings("ignore:No (positive|negative) samples")  # sklearn on pairs of one kind
@settings(deadline=None)  # ten curves each
@given(st.lists(st.tuples(st.booleans(), st.integers(-5, 5)), min_size=20, max_size=60))
def test_timm_face_threshold_is_the_first_best_of_every_candidate(rows):
    same, scores = np.array([same for same, _ in rows]), np.array([score / 10 for _, score in rows])
    folds, expected = timm_face_accuracy(scores, same), []
    for (train, test), threshold in zip(KFold(10).split(scores), folds.thresholds, strict=True):
        candidates = roc_curve(same[train], scores[train])[2]
        correct = ((scores[train] >= candidates[:, None]) == same[train]).sum(1)
        assert threshold == candidates[np.argmax(correct)]
        expected.append(np.mean((scores[test] >= threshold) == same[test]))
    assert folds.accuracies.tolist() == expected


def test_timm_face_accuracy_of_many_pairs_in_little_memory():
    rng = np.random.default_rng(0)
    same = np.arange(40_000) % 2 == 0
    scores = rng.normal(same * 1.0)
    tracemalloc.start()
    timm_face_accuracy(scores, same)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 50e6  # a matrix of thresholds and pairs would take 0.5 GB


def test_insightface_val_refuses_folds_of_one_kind():
    same = np.arange(40) < 20
    with pytest.raises(ValueError, match="every fold needs genuine and impostor pairs"):
        insightface_val(np.linspace(0, 4, 40), same)


def test_folds_are_mixed_with_one_pair_of_a_kind():
    one = np.arange(12) % 4 == 0
    assert folds_are_mixed(one, num_folds=3) and folds_are_mixed(~one, num_folds=3)
    assert not folds_are_mixed(np.repeat([True, False], [4, 8]) | one, num_folds=3)
    assert not folds_are_mixed(np.repeat([True, False], [8, 4]) & one, num_folds=3)


# Few distinct scores, so that ties between genuine and impostor pairs are common.
pairs_with_ties = st.lists(st.tuples(st.booleans(), st.integers(-5, 5)), min_size=2, max_size=40).filter(
    lambda rows: 0 < sum(same for same, _ in rows) < len(rows)
)


@given(pairs_with_ties, st.sampled_from([0.05, 0.1, 0.25, 1 / 3, 0.5, 1.0]))
def test_tar_is_the_best_that_any_threshold_gives_within_the_far(rows, target):
    same, scores = np.array([same for same, _ in rows]), np.array([score / 10 for _, score in rows])
    roc = ROC.from_scores(same, scores)
    if target < 1 / (~same).sum():
        with pytest.raises(ValueError, match="not measurable"):
            roc.at_far(target)
        return
    point = roc.at_far(target)
    accepted = scores[:, None] >= np.append(scores, np.inf)  # (pairs, thresholds)
    allowed = accepted[~same].mean(0) <= target
    assert point.far <= target
    assert point.tar == accepted[same].mean(0)[allowed].max()
    assert np.isfinite(point.threshold)
    assert (scores[same] >= point.threshold).mean() == point.tar
    assert (scores[~same] >= point.threshold).mean() == point.far


def test_curve_is_not_thinned():
    same, scores = np.array([1, 0, 1, 0, 1, 0]), np.array([3, 3, 2, 2, 1, 1])
    # All points lie on one line, of which a thinned curve keeps the ends.
    assert ROC.from_scores(same, scores).at_far(2 / 3) == (2 / 3, 2 / 3, 2.0)


@given(pairs_with_ties)
def test_auc_is_the_chance_that_genuine_scores_above_impostor(rows):
    same, scores = np.array([same for same, _ in rows]), np.array([score for _, score in rows])
    difference = scores[same][:, None] - scores[~same]
    assert ROC.from_scores(same, scores).auc == pytest.approx(((difference > 0) + 0.5 * (difference == 0)).mean())


def test_eer_is_where_the_two_errors_cross():
    # One of four genuine pairs below one of four impostors: at 0.5, both errors are a quarter.
    same = np.array([1, 1, 1, 1, 0, 0, 0, 0], dtype=bool)
    assert ROC.from_scores(same, np.array([0.9, 0.8, 0.7, 0.3, 0.5, 0.2, 0.1, 0.0])).eer == 0.25
    assert ROC.from_scores(same, np.array([0.9, 0.8, 0.7, 0.6, 0.5, 0.2, 0.1, 0.0])).eer == 0.0
    assert ROC.from_scores(same, np.arange(8)).eer == 1.0
    # The crossing lies between two points: FAR and FRR go from (0, 1) straight to (1, 0).
    assert ROC.from_scores(same, np.zeros(8)).eer == 0.5


def test_each_fold_is_judged_at_the_others_threshold():
    same = np.array([1, 0, 1, 0, 1, 0], dtype=bool)
    scores = np.array([0.9, 0.2, 0.8, 0.1, 0.3, 0.85])
    fold = np.array([7, 7, 7, 7, 9, 9])
    folds = cross_validated_accuracy(same, scores, fold)
    # Fold 7 is judged just above 0.85, where fold 9 accepts nothing; fold 9 at 0.8, which gets both its pairs wrong.
    assert folds.accuracies.tolist() == [0.75, 0.0]
    assert folds.thresholds.tolist() == [np.nextafter(0.85, 1), 0.8]
    one_out = cross_validated_accuracy(np.array([1, 0, 1, 0]), np.array([0.9, 0.2, 0.8, 0.1]), num_folds=4)
    assert one_out.thresholds.tolist() == [0.8, 0.8, 0.9, 0.8]
    tied = cross_validated_accuracy(np.array([1, 0, 1, 0]), np.array([0.8, 0.2, 0.8, 0.1]), num_folds=2)
    assert tied.accuracies.tolist() == [1, 1], "accepted at the threshold"
    consecutive = cross_validated_accuracy(same, scores, num_folds=3)
    assert consecutive.thresholds.tolist() == [0.3, 0.9, 0.8]
    assert consecutive.accuracies.tolist() == [1.0, 0.5, 0.0]


def test_pairs_that_cannot_be_judged_fold_by_fold_are_named(orl_pairs):
    rows = np.flatnonzero(orl_pairs.same)[:6], np.flatnonzero(~orl_pairs.same)[:3]
    few = replace(orl_pairs, pairs=orl_pairs.pairs[:9], same=orl_pairs.same[:9], fold=None)
    with pytest.raises(ValueError, match="orl: 9 pairs are too few for 10-fold accuracy: add pairs, or state the fold"):
        VerificationEvaluator(few)
    sorted_rows = np.concatenate([rows[0], rows[1]])
    pairs, same = orl_pairs.pairs[sorted_rows], orl_pairs.same[sorted_rows]
    with pytest.raises(ValueError, match="orl: the folds other than 3 have 0 genuine and 3 impostor pairs"):
        VerificationEvaluator(replace(orl_pairs, pairs=pairs, same=same, fold=[3] * 6 + [7] * 3))
    with pytest.raises(ValueError, match="the folds other than 0 have 18 genuine and 0 impostor pairs"):
        verification_metrics(np.arange(20) >= 2, np.arange(20.0))
    with pytest.raises(ValueError, match="the folds other than 0 have 0 genuine and 18 impostor pairs"):
        verification_metrics(np.arange(20) < 2, np.arange(20.0))


def test_few_pairs_with_folds_leave_out_the_references_figures(model, image_processor, orl_pairs):
    rows = [*np.flatnonzero(orl_pairs.same)[:4], *np.flatnonzero(~orl_pairs.same)[:4]]
    few = replace(orl_pairs, pairs=orl_pairs.pairs[rows], same=orl_pairs.same[rows], fold=[0, 0, 1, 1] * 2)
    metrics = VerificationEvaluator(few)(model, image_processor)
    assert "orl_accuracy" in metrics
    assert not [key for key in metrics if "insightface" in key or "timm_face" in key]
    rows = np.stack([np.flatnonzero(orl_pairs.same)[:5], np.flatnonzero(~orl_pairs.same)[:5]], axis=1).ravel()
    ten = replace(orl_pairs, pairs=orl_pairs.pairs[rows], same=orl_pairs.same[rows], fold=[0] * 4 + [1] * 6)
    metrics = VerificationEvaluator(ten)(model, image_processor)
    assert "orl_insightface_accuracy" in metrics and "orl_timm_face_accuracy" in metrics


def test_impostors_alone_decide_which_far_is_measurable(model, image_processor, orl_pairs):
    rows = [*np.flatnonzero(orl_pairs.same)[:120], *np.flatnonzero(~orl_pairs.same)[:98]]
    pairs = replace(orl_pairs, pairs=orl_pairs.pairs[rows], same=orl_pairs.same[rows], fold=np.arange(218) // 2 % 2)
    evaluator = VerificationEvaluator(pairs, fars=[1e-1, 1e-2])
    assert evaluator.not_measurable == ["tar@far=1e-2"]
    legend = evaluator.compute(Embedder(model, image_processor)).plots["scores"]().axes[0].get_legend()
    assert [text.get_text() for text in legend.get_texts()] == ["98 impostor pairs", "120 genuine pairs"]
    for build in (
        lambda: QualityEvaluator(pairs, far=1e-2),
        lambda: VerificationFairnessEvaluator(split_by_group(replace(pairs, group=np.arange(218) % 2)), far=1e-2),
    ):
        with pytest.raises(ValueError, match=r"FAR 0\.01 is not measurable with 98 impostor pairs"):
            build()


def test_far_finer_than_one_impostor_is_left_out_not_zero():
    rng = np.random.default_rng(0)
    same = np.arange(2000) % 2 == 0
    metrics = verification_metrics(same, rng.normal(same * 3.0))
    fars = {key.removeprefix("tar@far=") for key in metrics if key.startswith("tar@far=")}
    assert fars == {"1e-1", "1e-2", "1e-3"}
    assert metrics["finest_far"] == 1e-3
    assert (metrics["num_genuine"], metrics["num_impostors"]) == (1000, 1000)
    json.dumps(metrics, allow_nan=False)


def test_threshold_of_a_far_that_no_pair_reaches_is_a_number():
    same = np.array([False] * 10 + [True] * 10)
    point = ROC.from_scores(same, np.where(same, 0.1, 0.9)).at_far(0.5)
    assert (point.tar, point.far) == (0, 0)
    assert 0.9 < point.threshold < 0.9 + 1e-9


@pytest.mark.parametrize(
    ("same", "scores", "message"),
    [
        ([1, 0], [0.1, 0.2, 0.3], r"one score per pair, got \(3,\) scores for \(2,\) pairs"),
        ([1, 1], [0.1, 0.2], "found 2 genuine and 0 impostors"),
        ([1, 0, 1], [0.1, 0.2, np.nan], "the score of pair 2 is nan"),
    ],
)
def test_bad_scores_are_named(same, scores, message):
    with pytest.raises(ValueError, match=message):
        ROC.from_scores(np.array(same), np.array(scores))


def test_format_far():
    assert [format_far(far) for far in (0.1, 1e-3, 2.5e-5, 1.0)] == ["1e-1", "1e-3", "2.5e-5", "1e0"]


def test_evaluator_gives_one_flat_dict_and_draws(model, image_processor, orl_pairs, tmp_path):
    evaluator = VerificationEvaluator(orl_pairs)
    metrics = evaluator(model, image_processor, output_dir=tmp_path / "figures")
    assert evaluator.primary_metric == "accuracy"
    assert 0.5 < metrics["orl_accuracy"] <= 1
    assert all(key.startswith("orl_") and type(value) is float for key, value in metrics.items())
    assert evaluator.not_measurable == [f"tar@far=1e-{digit}" for digit in (3, 4, 5, 6)]
    assert not metrics.keys() & evaluator.prefixed(dict.fromkeys(evaluator.not_measurable)).keys()
    assert metrics == evaluator.prefixed(evaluator.evaluate(Embedder(model, image_processor)))
    assert {path.name for path in (tmp_path / "figures").iterdir()} == {"orl_roc.png", "orl_det.png", "orl_scores.png"}


def test_references_keep_their_own_test_time_augmentation(model, image_processor, orl_pairs):
    embedder = Embedder(model, image_processor)
    by_flip = {flip: VerificationEvaluator(orl_pairs, flip=flip).evaluate(embedder) for flip in ("sum", "concat", None)}
    # The embedder has the flipped images, so InsightFace's figures are there, and are the same, in each.
    for figure in ("insightface_accuracy", "insightface_threshold", "timm_face_accuracy", "timm_face_threshold"):
        assert len({metrics[figure] for metrics in by_flip.values()}) == 1
    assert by_flip["sum"]["auc"] != by_flip[None]["auc"]
    embeddings = embedder(orl_pairs.images, None).embeddings.astype(np.float64)
    single = cosine_similarities(*embeddings[orl_pairs.pairs.T])
    assert by_flip[None]["timm_face_threshold"] == timm_face_accuracy(single, orl_pairs.same).thresholds.mean()


def test_mirror_images_are_embedded_only_where_they_count(model, image_processor, orl_pairs):
    metrics = VerificationEvaluator(orl_pairs, flip=None)(model, image_processor)
    assert model.num_calls == 3  # forty images, 16 at a time
    assert "orl_timm_face_accuracy" in metrics and "orl_insightface_accuracy" not in metrics
    VerificationEvaluator(orl_pairs)(model, image_processor)
    assert model.num_calls == 3 + 6


def test_distances_give_the_same_figures_as_similarities(model, image_processor, orl_pairs):
    cosine = VerificationEvaluator(orl_pairs)(model, image_processor)
    distance = VerificationEvaluator(orl_pairs, similarity="squared_euclidean")(model, image_processor)
    for key, value in cosine.items():
        expected = 2 - 2 * value if key.startswith("orl_threshold") else value
        assert distance[key] == pytest.approx(expected, abs=1e-6)
    with pytest.raises(ValueError, match="similarity is 'l2', expected 'cosine' or 'squared_euclidean'"):
        VerificationEvaluator(orl_pairs, similarity="l2")


def test_stated_threshold_gives_the_stated_rates(model, image_processor, orl_pairs):
    metrics = VerificationEvaluator(orl_pairs)(model, image_processor)
    embeddings = embed_images(model, orl_pairs.images, image_processor).embeddings.astype(np.float64)
    first, second = embeddings[orl_pairs.pairs.T]
    accepted = (first * second).sum(1) >= metrics["orl_threshold@far=1e-2"] - 1e-12
    assert accepted[orl_pairs.same].mean() == metrics["orl_tar@far=1e-2"]
    assert accepted[~orl_pairs.same].mean() <= 1e-2
