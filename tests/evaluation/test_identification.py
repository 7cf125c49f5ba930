from dataclasses import replace

import numpy as np
import pytest
import torch

from hf_face.evaluation.identification import search
from hf_face.evaluation.reference_ijb import insightface_identification, insightface_open_set_tpir


def unit(degrees) -> torch.Tensor:
    """Features in the plane: similarity is the cosine of the angle between."""
    radians = torch.deg2rad(torch.as_tensor(degrees, dtype=torch.float64))
    return torch.stack([radians.cos(), radians.sin()], dim=1)


# Gallery: 7 twice, 8 and 9 once. The probe of 8 stands nearer to 9; 5 and 6 are not enrolled.
GALLERY, ENROLLED = unit([0.0, 40.0, 90.0, 120.0]), [7, 7, 8, 9]
PROBES, SUBJECTS = unit([10.0, 110.0, 118.0, 170.0, -30.0]), [7, 8, 9, 5, 6]


def test_search_gives_ranks_mates_and_highest_impostors():
    result = search(PROBES, SUBJECTS, GALLERY, ENROLLED)
    assert result.mated.tolist() == [True, True, True, False, False]
    assert result.mate_ranks.tolist() == [[1, 2], [2, 0], [1, 0], [0, 0], [0, 0]]
    mates = np.cos(np.deg2rad([10, 20, 2]))
    np.testing.assert_allclose(result.mate_scores[:3, 0], mates)
    assert np.isneginf(result.mate_scores[1:, 1]).all()
    np.testing.assert_allclose(result.impostor_scores, np.cos(np.deg2rad([80, 10, 28, 50, 30])))


def test_blocks_change_nothing():
    rng = torch.Generator().manual_seed(0)
    probes, gallery = (torch.randn(n, 8, generator=rng, dtype=torch.float64) for n in (50, 40))
    subjects = np.arange(50) % 15, np.arange(40) % 12
    whole = search(probes, subjects[0], gallery, subjects[1])
    parts = search(probes, subjects[0], gallery, subjects[1], block_size=130)
    np.testing.assert_array_equal(whole.mate_ranks, parts.mate_ranks)
    np.testing.assert_allclose(whole.impostor_scores, parts.impostor_scores)


def test_a_search_in_several_blocks_shows_its_progress(capsys):
    search(PROBES, SUBJECTS, GALLERY, ENROLLED, block_size=4 * 5)
    assert capsys.readouterr().err == "", "one block"
    search(PROBES, SUBJECTS, GALLERY, ENROLLED, block_size=4 * 4)
    assert "Searching" in capsys.readouterr().err


def test_someone_else_of_the_same_score_stands_before():
    result = search(unit([10.0]), [1], unit([0.0, 20.0]), [1, 2])
    assert result.mate_ranks.tolist() == [[2]]
    assert search(torch.ones(1, 2), [1], torch.ones(3, 2), [1, 2, 3]).ranks.tolist() == [3]


def test_a_search_for_strangers_alone():
    result = search(PROBES[3:], SUBJECTS[3:], GALLERY, ENROLLED)
    assert result.mate_ranks.tolist() == [[0], [0]] and not result.mated.any()


def test_cmc_rises_to_one():
    result = search(PROBES, SUBJECTS, GALLERY, ENROLLED)
    for max_rank in (1, 2, 4):
        np.testing.assert_allclose(result.cmc(max_rank), [2 / 3, 1, 1, 1][:max_rank])
    assert result.metrics(ranks=(1, 2))["rank1"] == pytest.approx(2 / 3)


def test_mean_average_precision_by_the_trapezoidal_rule():
    """Own entries at ranks 1 and 3 of four: ((1 + 1) / 2 + (1/2 + 2/3) / 2) / 2."""
    result = search(unit([0.0]), [1], unit([0.0, 10.0, 20.0, 90.0]), [1, 2, 1, 3])
    assert result.mate_ranks.tolist() == [[1, 3]]
    assert result.mean_average_precision == pytest.approx((1 + 7 / 12) / 2)
    # Own entries at ranks 1 and 2; at 2; at 1.
    result = search(PROBES, SUBJECTS, GALLERY, ENROLLED)
    assert result.mean_average_precision == pytest.approx((1 + 1 / 4 + 1) / 3)


def test_tpir_asks_for_rank_one_and_for_a_score_above_the_false_alarms():
    result = search(PROBES, SUBJECTS, GALLERY, ENROLLED)
    strict = result.at_fpir(0.5)  # one of two alarms allowed: the one at 30 degrees
    assert (strict.far, strict.tar) == (0.5, 2 / 3)  # the probe of 8 scores cos 20 but is second
    assert strict.threshold == pytest.approx(np.cos(np.deg2rad(30)))
    assert result.at_fpir(1).tar == 2 / 3
    with pytest.raises(ValueError, match=r"FPIR 0\.4 is not measurable with 2 non-mated probes"):
        result.at_fpir(0.4)
    assert [key for key in result.metrics(fpirs=(0.4, 0.5)) if "tpir" in key] == ["tpir@fpir=5e-1"]


def test_insightface_open_set_threshold_allows_one_false_alarm_fewer():
    rng = np.random.default_rng(0)
    probes, gallery = (torch.from_numpy(rng.standard_normal((n, 4))) for n in (120, 20))
    probes[:20] += gallery
    result = search(probes, np.arange(120), gallery, np.arange(20))
    alarms = np.sort(result.impostor_scores[20:])
    point = insightface_open_set_tpir(result, 0.1)
    assert (point.threshold, point.far) == (alarms[-10], 0.09)
    assert result.at_fpir(0.1).far == 0.1
    found = (result.mate_ranks[:20, 0] == 1) & (result.mate_scores[:20, 0] > alarms[-10])
    assert 0 < point.tar == found.mean() <= result.at_fpir(0.1).tar
    # A mate that scores as high as the threshold is rejected, as the false alarm itself is.
    tied = replace(result, mate_scores=np.where(result.mate_ranks > 0, alarms[-10], -np.inf))
    assert insightface_open_set_tpir(tied, 0.1).tar == 0
    # Where the target allows no false alarm, the highest of them is the threshold.
    strictest = insightface_open_set_tpir(result, 1e-3)
    found = (result.mate_ranks[:20, 0] == 1) & (result.mate_scores[:20, 0] > alarms[-1])
    assert (strictest.threshold, strictest.far, strictest.tar) == (alarms[-1], 0, found.mean())


def test_insightface_closed_set_needs_every_subject_once():
    with pytest.raises(ValueError, match="probe 1: subject 5 occurs 0 times in the gallery"):
        insightface_identification(unit([0.0, 1.0]), [8, 5], GALLERY[2:], ENROLLED[2:])
    with pytest.raises(ValueError, match="probe 0: subject 7 occurs 2 times in the gallery"):
        insightface_identification(unit([0.0]), [7], GALLERY, ENROLLED)
    with pytest.raises(ValueError, match="probe 0: subject 99 occurs 0 times in the gallery"):
        insightface_identification(unit([0.0]), [99], GALLERY, ENROLLED)


def test_insightface_closed_set_finds_what_scores_above_a_wrong_similarity():
    """The own entries are at 0, 15 and 40 degrees, the nearest wrong ones at 5, 20 and 45."""
    probes, gallery = unit([0.0, 20.0, 50.0]), unit([0.0, 5.0, 90.0])
    metrics = insightface_identification(probes, [1, 2, 3], gallery, [1, 2, 3], fpirs=(0.3, 0.4, 1.0))
    for fpir, degrees, found in (("3e-1", 5, 1 / 3), ("4e-1", 20, 2 / 3), ("1e0", 45, 1)):
        assert metrics[f"threshold@fpir={fpir}"] == pytest.approx(np.cos(np.deg2rad(degrees)))
        assert metrics[f"tpir@fpir={fpir}"] == pytest.approx(found)
    tied = insightface_identification(torch.ones(1, 2), [1], torch.eye(2), [1, 2], fpirs=(1.0,))
    assert tied["tpir@fpir=1e0"] == 0


def test_features_and_subjects_of_one_length():
    with pytest.raises(ValueError, match="5 probe features and 4 probe subjects"):
        search(PROBES, SUBJECTS[:4], GALLERY, ENROLLED)
    with pytest.raises(ValueError, match="4 gallery features and 3 gallery subjects"):
        search(PROBES, SUBJECTS, GALLERY, ENROLLED[:3])
    with pytest.raises(ValueError, match="0 gallery features and 0 gallery subjects"):
        search(PROBES, SUBJECTS, GALLERY[:0], [])
