"""What ranks send in a step, counted, is what docs/scaling.md says."""

import json
from pathlib import Path

import forked
import pytest

RANKS, IDENTITIES, SIZE, BATCH = 2, 1000, 16, 8


@pytest.fixture(scope="module")
def sent(tmp_path_factory) -> dict:
    folder = tmp_path_factory.mktemp("sent")
    forked.run([Path(__file__).with_name("communication.py"), folder, IDENTITIES, SIZE, BATCH], num_ranks=RANKS)
    return json.loads((folder / "sent.json").read_text())


def test_a_replicated_head_is_reduced_with_the_backbone(sent):
    weights = sent["replicated"]["backbone"] + IDENTITIES * SIZE
    assert sent["replicated"]["sent"]["float32"] == pytest.approx(2 * 4 * weights * (RANKS - 1) / RANKS, rel=1e-3)


def test_a_split_head_sends_embeddings_and_three_numbers_a_sample(sent):
    share, samples = (RANKS - 1) / RANKS, BATCH * RANKS
    backbone = 2 * 4 * sent["split"]["backbone"] * share
    embeddings = 2 * 4 * samples * SIZE * share
    numbers = sum(sent["split"]["sent"].values()) - backbone - embeddings
    assert numbers == pytest.approx(20 * samples, abs=64)  # what does not grow with the batch


def test_ranks_agree_on_two_numbers(sent):
    assert all(sent[kind]["agreeing"] == {"float32": 2 * 2 * 4 * (RANKS - 1) / RANKS} for kind in sent)
