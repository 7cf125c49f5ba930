"""The same training on 1, 2 and 4 ranks: same losses, same backbone, same class centers."""

import pytest
from ranks import NUM_IDENTITIES, STEPS, on_ranks, refusals, train

from hf_face.heads import MARGINS
from hf_face.heads.sharding import shard_range

CALLS = {
    **{name: {"head_kwargs": {"margin": name}} for name in MARGINS if name != "linear"},
    "linear": {"head_kwargs": {"margin": "linear", "scale": 1.0}},  # products are not bounded as cosines are
    "sub-centers, chunks and filter": {
        "head_kwargs": {"sub_centers": 2, "chunk_size": 5, "filter_threshold": 0.3},
    },
    "fewer identities than ranks": {"head_kwargs": {"num_identities": 3}},
    "sampled": {"head_kwargs": {"margin": "adaface", "sample_rate": 0.3}},
    "sampled, Adam, chunks": {"head_kwargs": {"sample_rate": 0.3, "chunk_size": 4}, "optimizer": "adamw"},
    "sampled, sub-centers": {"head_kwargs": {"sample_rate": 0.3, "sub_centers": 2}},
    "curricularface, filter": {"head_kwargs": {"margin": "curricularface", "filter_threshold": 0.3}},
    "weighted": {"head_kwargs": {}, "weighted": True},
    "rival": {"head_kwargs": {}, "rival": True},
    "float64": {"head_kwargs": {"margin": "adaface"}, "double": True},
}
ON_COPIES = ("arcface", "adaface", "magface", "curricularface", "weighted", *(n for n in MARGINS if "elastic" in n))
CASE_OF = {f"replicated {name}": name for name in ON_COPIES}
REPLICATED = {case: {**CALLS[name], "shard": False} for case, name in CASE_OF.items()}


RESUMED = ("adaface", "elastic_arcface", "sampled, Adam, chunks")


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Results by number of ranks, rank and case; runs of `RESUMED` stop on four ranks and resume on other numbers."""
    folder = tmp_path_factory.mktemp("ranks")
    checkpoints = {case: folder / str(number) for number, case in enumerate(RESUMED)}
    cases = {1: dict(CALLS), 2: {**CALLS, **REPLICATED}, 3: {}, 4: dict(CALLS)}
    for case, checkpoint in checkpoints.items():
        cases[4]["stop " + case] = {**CALLS[case], "steps": range(STEPS // 2), "folder": checkpoint}
        for world_size in (1, 2, 3):
            resumed = {**CALLS[case], "steps": range(STEPS // 2, STEPS), "folder": checkpoint, "resume": True}
            cases[world_size]["resume " + case] = resumed
    results = {}
    for world_size in (4, 3, 2):
        ranks = on_ranks(world_size, folder / f"ranks{world_size}", train, list(cases[world_size].values()))
        results[world_size] = [dict(zip(cases[world_size], each, strict=True)) for each in ranks]
    results[1] = [{case: train(**call) for case, call in cases[1].items()}]
    return results


def assert_same(got, want, keys=None):
    for key in keys or want:
        error = (got[key] - want[key]).abs().max() / want[key].abs().max()
        assert error <= 1e-5, f"{key}: {error:.1e} relative"


@pytest.mark.parametrize("world_size", [2, 4])
@pytest.mark.parametrize("case", CALLS)
def test_any_number_of_ranks_trains_the_same(case, world_size, runs):
    want = runs[1][0][case]
    assert want["losses"][0] != want["losses"][-2], "the run must do something"
    for rank in range(world_size):
        assert runs[world_size][rank][case].keys() == want.keys()
        assert_same(runs[world_size][rank][case], want)


@pytest.mark.parametrize("world_size", [1, 2, 3])
@pytest.mark.parametrize("case", RESUMED)
def test_training_stopped_on_four_ranks_goes_on_with_others(case, world_size, runs):
    want = runs[1][0][case]
    for rank in range(world_size):
        got = runs[world_size][rank]["resume " + case]
        assert_same(got, {**want, "losses": want["losses"][STEPS // 2 :], "norms": want["norms"][STEPS // 2 :]})


@pytest.mark.parametrize("case", REPLICATED)
def test_margin_statistics_cover_all_ranks_without_sharding_too(case, runs):
    want = runs[1][0][CASE_OF[case]]
    for rank in (0, 1):
        assert_same(runs[2][rank][case], want, [key for key in want if key != "losses"])
    assert_same({"losses": sum(runs[2][rank][case]["losses"] for rank in (0, 1)) / 2}, want, ["losses"])


def test_ranks_that_do_not_fit_together_are_told_so_and_do_not_wait(tmp_path):
    unequal, wrong = {"sizes": [3, 4], "labels": [0, 0]}, {"sizes": [3, 3], "labels": [0, NUM_IDENTITIES]}
    shards, copies = ({"head_kwargs": {}, "shard": shard} for shard in (True, False))
    calls = [{**shards, **unequal}, {**copies, **unequal}, {**shards, **wrong}]
    for of_rank in on_ranks(2, tmp_path / "ranks", refusals, calls):
        assert "the same number of samples to the head, found [3, 4]" in of_rank[0]
        assert of_rank[1] == of_rank[0]
        assert f"found {[NUM_IDENTITIES] * 3}" in of_rank[2]


@pytest.mark.parametrize("num_identities, world_size", [(37, 4), (3, 4), (8, 2), (1, 3)])
def test_shards_are_consecutive_even_and_complete(num_identities, world_size):
    ranges = [shard_range(num_identities, rank, world_size) for rank in range(world_size)]
    assert [label for first, last in ranges for label in range(first, last)] == list(range(num_identities))
    sizes = [last - first for first, last in ranges]
    assert max(sizes) - min(sizes) <= 1
    assert NUM_IDENTITIES % 4, "the runs above must not come out even"
