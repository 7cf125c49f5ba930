"""InsightFace's figures for a synthetic IJB protocol; `pytest -rP` prints reference, figure, ours and difference."""

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_curve

from hf_face.evaluation.comparison_scores import ComparisonScores
from hf_face.evaluation.reference_ijb import insightface_identification, insightface_roc, insightface_tar_at_far
from hf_face.evaluation.templates import image_weights, pair_scores, pool_templates

SWITCHES = [f"N{n}D{d}F{f}" for n in (1, 0) for d in (1, 0) for f in (1, 0)]
ROW = "{:<18} {:<24} {:>12.6f} {:>12.6f} {:>10.1e}"


@pytest.fixture(scope="module")
def ijb(fixtures):
    names = ("images", "pairs", "verification", "identification")
    return {name: np.load(fixtures / "evaluation" / f"ijb_{name}.npz") for name in names}


def pooled(images, switches: str, dtype):
    norm_score, detector_score, flip = (switch == "1" for switch in switches[1::2])
    original, flipped = np.split(images["img_feats_i8"].astype(dtype) / 8, 2, axis=1)
    features = original + flipped if flip else original.copy()
    weights = image_weights(features, images["faceness"] if detector_score else None, norm_score)
    return pool_templates(torch.from_numpy(features), images["templates"], images["medias"], weights)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("switches", SWITCHES)
def test_verification(ijb, switches, dtype):
    expected, pairs = ijb["verification"], ijb["pairs"]
    row = list(expected["combos"]).index(switches)
    templates = pooled(ijb["images"], switches, dtype)
    np.testing.assert_allclose(
        templates.features[:10], expected[f"template_feats_first10_{switches}"], rtol=0, atol=1e-6
    )
    scores = pair_scores(templates.features, templates.rows(pairs["p1"], "p1"), templates.rows(pairs["p2"], "p2"))
    wanted = expected["scores_N1D1F1" if switches == "N1D1F1" else f"scores_first100_{switches}"]
    np.testing.assert_allclose(scores[: len(wanted)], wanted, rtol=0, atol=1e-6)

    ours = ComparisonScores.from_pairs(pairs["label"], scores)
    points = insightface_tar_at_far(ours, expected["far_targets"])
    for target, point, tar in zip(expected["far_targets"], points, expected["tar"][row], strict=True):
        print(ROW.format("eval_ijbc.py", f"{switches} TAR@FAR={target:.0e}", tar, point.tar, point.tar - tar))
    genuine_pair = 0 if dtype is np.float64 else 1 / 450 + 1e-12
    np.testing.assert_allclose([point.tar for point in points], expected["tar"][row], rtol=0, atol=genuine_pair)
    assert ours.auc == pytest.approx(expected["auc"][row], abs=1e-6)
    if dtype is np.float64:
        np.testing.assert_array_equal([point.far for point in points], expected["picked_fpr"][row])
        assert len(insightface_roc(ours)[0]) == expected["roc_points"][row]


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("switches", [switches for switches in SWITCHES if switches.endswith("F1")])
def test_identification(ijb, switches, dtype):
    expected = ijb["identification"]
    row = list(expected["combos"]).index(switches)
    templates = pooled(ijb["images"], switches, dtype)

    def enrolled(*lists):
        ids = np.concatenate([expected[f"{name}_templates"] for name in lists])
        unique, first = np.unique(ids, return_index=True)
        subjects = np.concatenate([expected[f"{name}_subjects"] for name in lists])[first]
        return templates.features[templates.rows(unique, "list")], subjects

    ours = insightface_identification(*enrolled("probe"), *enrolled("g1", "g2"))
    figures = dict(zip(("rank1", "rank5", "rank10"), expected["top"][row], strict=True))
    for fpir, tpir, threshold in zip(("1e-2", "1e-1"), expected["tpir"][row], expected["thresholds"][row], strict=True):
        figures |= {f"tpir@fpir={fpir}": tpir, f"threshold@fpir={fpir}": threshold}
    for name, figure in figures.items():
        print(ROW.format("ijb_1n.py", f"{switches} {name}", figure, ours[name], ours[name] - figure))
        assert ours[name] == pytest.approx(figure, abs=1e-6 if "threshold" in name else 1e-9)


@pytest.mark.parametrize("decimals", [1, 3, 15])
def test_curve_is_sklearn_s(decimals):
    rng = np.random.default_rng(0)
    same = rng.random(5000) < 0.1
    scores = np.round(rng.standard_normal(5000) + 2 * same, decimals)
    ours = insightface_roc(ComparisonScores.from_pairs(same, scores))
    for got, expected in zip(ours, roc_curve(same, scores), strict=True):
        np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize("target", [0, 1e-4, 3e-3, 0.0105, 0.5, 1])
def test_nearest_point_is_the_reference_s_search(target):
    rng = np.random.default_rng(1)
    same = rng.random(2000) < 0.1
    scores = np.round(rng.standard_normal(2000) + 2 * same, 2)
    far, tar, _ = roc_curve(same, scores)
    far, tar = far[::-1], tar[::-1]
    nearest = np.argmin(abs(far - target))
    point = insightface_tar_at_far(ComparisonScores.from_pairs(same, scores), [target])[0]
    assert (point.far, point.tar) == (far[nearest], tar[nearest])
