import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from hf_face.data import load_orl
from hf_face.evaluation import Embedder, all_pairs
from hf_face.evaluation.all_pairs import AllPairsEvaluator, HighestScores, all_pairs_scores, count_pairs
from hf_face.evaluation.comparison_scores import ComparisonScores
from hf_face.evaluation.protocols import load_protocol


def faces(num_images=300, num_people=60):
    rng = np.random.default_rng(0)
    labels = rng.integers(0, num_people, num_images)
    centers = rng.standard_normal((num_people, 16))
    features = torch.from_numpy(centers[labels] + rng.standard_normal((num_images, 16)))
    return torch.nn.functional.normalize(features), labels


def every_pair(features, labels) -> ComparisonScores:
    first, second = np.triu_indices(len(labels), 1)
    scores = (features @ features.T).numpy()[first, second]
    return ComparisonScores.from_pairs(labels[first] == labels[second], scores)


@pytest.mark.parametrize("block_size", [16, 77, 300, 4096])
def test_operating_points_are_those_of_the_whole_matrix(block_size):
    features, labels = faces()
    whole = every_pair(features, labels)
    blockwise = all_pairs_scores(features, labels, max_far=1e-2, block_size=block_size)
    assert (len(blockwise.genuine), blockwise.num_impostors) == count_pairs(labels)
    np.testing.assert_allclose(blockwise.genuine, whole.genuine, atol=1e-12)
    assert len(blockwise.impostors) == int(1e-2 * whole.num_impostors) + 1
    for far in (1e-2, 1e-3, 1e-4):
        assert blockwise.at_far(far) == pytest.approx(whole.at_far(far), abs=1e-12)


def test_progress_is_shown(capsys):
    all_pairs_scores(*faces(), max_far=1e-2)
    assert "All pairs" in capsys.readouterr().err


def test_pairs_are_counted_without_overflow():
    assert count_pairs(np.array([3, 3, 3, 1, 1, 7])) == (4, 11)
    assert count_pairs(np.zeros(100_000, dtype=np.int32))[0] == 4_999_950_000


def test_highest_scores_keeps_little_and_loses_nothing():
    scores = torch.randn(50, 8, 40, generator=torch.Generator().manual_seed(0))
    highest, held = HighestScores(100, torch.empty(0)), []
    for block in scores:
        highest.add(block)
        held.append(sum(len(part) for part in highest._held))
    assert 150 < max(held[1:]) <= 200, "thinned out once twice as many are held, not after every block"
    torch.testing.assert_close(highest.highest().sort().values, scores.flatten().sort().values[-100:])


def test_bad_input_is_named():
    features, labels = faces()
    with pytest.raises(ValueError, match="300 features and 299 labels"):
        all_pairs_scores(features, labels[:-1], 1e-2)
    with pytest.raises(ValueError, match="found 0 genuine and 44850 impostor pairs"):
        all_pairs_scores(features, np.arange(300), 1e-2)
    with pytest.raises(ValueError, match="found 44850 genuine and 0 impostor pairs"):
        all_pairs_scores(features, np.zeros(300), 1e-2)
    features[17, 3] = torch.nan
    with pytest.raises(ValueError, match="the embedding of image 17 is not finite"):
        all_pairs_scores(features, labels, 1e-2)


def test_evaluator_over_labeled_images(model, image_processor, tmp_path):
    faces = load_orl().select(range(60))
    evaluator = AllPairsEvaluator(faces, fars=(1e-1, 1e-2, 1e-6))
    metrics = evaluator.evaluate(Embedder(model, image_processor), tmp_path)
    embeddings = torch.from_numpy(Embedder(model, image_processor)(faces).embeddings)
    whole = every_pair(embeddings, np.asarray(faces["label"]))
    assert metrics["tar@far=1e-2"] == pytest.approx(whole.at_far(1e-2).tar)
    assert metrics["num_impostors"] == whole.num_impostors
    assert evaluator.primary_metric in metrics
    assert evaluator.not_measurable == ["tar@far=1e-6"]
    assert {path.name for path in tmp_path.iterdir()} == {"all_pairs_roc.png", "all_pairs_det.png"}
    with pytest.raises(ValueError, match="are too few for any of the FARs"):
        AllPairsEvaluator(faces, fars=[1e-9])
    with pytest.raises(ValueError, match="0 genuine and 15 impostors are too few"):
        AllPairsEvaluator(load_orl().select(range(0, 60, 10)), fars=[1e-1])


def test_curve_ends_where_the_kept_impostors_end():
    features, labels = faces()
    tail, whole = all_pairs_scores(features, labels, 1e-2).curve(), every_pair(features, labels).curve()
    assert whole.far[-1] == whole.tar[-1] == 1
    assert 0.005 < tail.far[-1] <= 0.0101
    kept = all_pairs_scores(features, labels, 1e-2)
    assert (tail.far[-1], tail.thresholds[-1]) == (len(kept.impostors) / kept.num_impostors, kept.impostors[0])
    shared = len(tail.far) - 1
    np.testing.assert_allclose(tail.tar[:shared], whole.tar[:shared])
    np.testing.assert_allclose(tail.far[:shared], whole.far[:shared])


def test_no_far_by_default_asks_for_more_scores_than_memory_holds():
    (evaluator,) = load_protocol({"all_pairs": {"data": "orl"}})
    assert evaluator.fars == (1e-4, 1e-5, 1e-6)
    (evaluator,) = load_protocol({"all_pairs": {"data": "orl", "fars": [1e-2]}})
    assert evaluator.fars == [1e-2]


class SecondOfTwoRanks:
    """`torch.distributed` as the second rank sees it, which receives what the first one sends."""

    def is_initialized(self):
        return True

    def get_rank(self):
        return 1

    def get_world_size(self):
        return 2

    def all_gather_object(self, shares, share):
        shares[:] = [np.array([0.5]), share]


def test_a_rank_without_a_block_has_no_scores(monkeypatch):
    monkeypatch.setattr(all_pairs, "dist", SecondOfTwoRanks())
    features, labels = faces()
    scores = all_pairs_scores(features, labels, max_far=1e-2, block_size=300)  # one block, the first rank's
    assert scores.genuine.tolist() == scores.impostors.tolist() == [0.5]


def _rank_scores(rank: int, store: str, results):
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    scores = all_pairs_scores(*faces(), max_far=1e-2, block_size=64)
    results[rank] = (scores.genuine, scores.impostors)
    dist.destroy_process_group()


@pytest.mark.slow  # starts two processes that import everything anew
def test_two_ranks_give_the_same_scores(tmp_path):
    alone = all_pairs_scores(*faces(), max_far=1e-2, block_size=64)
    with mp.Manager() as manager:
        results = manager.dict()
        mp.spawn(_rank_scores, args=(tmp_path / "store", results), nprocs=2)
        for rank in (0, 1):
            np.testing.assert_array_equal(results[rank][0], alone.genuine)
            np.testing.assert_array_equal(results[rank][1], alone.impostors)
