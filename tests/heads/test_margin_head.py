"""The head of one process; test_sharding.py compares numbers of ranks."""

import copy

import pytest
import torch

from hf_face.heads import MARGINS, MarginHead, margin_softmax_loss
from hf_face.heads.margin_softmax import unit_and_norm

LABELS = torch.tensor([0, 4, -1, 2, 0])


def embeddings():
    return 15 * torch.randn(5, 8, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("settings", [{}, {"sub_centers": 2, "chunk_size": 2, "filter_threshold": 0.1}])
@pytest.mark.parametrize("name", MARGINS)
def test_the_loss_is_that_of_the_function(name, settings):
    head = MarginHead(8, 5, margin=name, scale=16.0, **settings)
    margin, weight = copy.deepcopy(head.margin), torch.rand(5)
    output = head(*unit_and_norm(embeddings()), LABELS, weight)
    expected = margin_softmax_loss(
        embeddings(), head.weight, LABELS, margin, scale=16.0, sample_weight=weight, **settings
    )
    torch.testing.assert_close(output.loss, expected)
    output.loss.backward()
    assert not head.weight.grad.is_sparse and head.num_samples == 0, "no sample of the identities"


def test_cosines_of_ignored_samples_are_zero():
    head = MarginHead(8, 5)
    cosine = torch.nn.functional.cosine_similarity(embeddings(), head.weight.detach()[LABELS])
    output = head(*unit_and_norm(embeddings()), LABELS)
    torch.testing.assert_close(output.target_cosine, torch.where(LABELS >= 0, cosine, 0))


def test_the_regularizer_is_a_part_of_the_loss():
    losses = []
    for lambda_g in (0.0, 10.0):
        torch.manual_seed(0)
        head = MarginHead(8, 5, margin="magface", margin_kwargs={"lambda_g": lambda_g})
        output = head(*unit_and_norm(embeddings()), LABELS)
        losses.append(output.loss)
    norm = embeddings()[LABELS >= 0].norm(dim=1).clamp(10, 110)
    expected = 10 * (norm / 110**2 + 1 / norm).mean()
    torch.testing.assert_close(output.regularizer, expected)
    torch.testing.assert_close(losses[1] - losses[0], expected, rtol=1e-4, atol=1e-4)


def test_a_seed_gives_the_class_centers_that_it_has_always_given():
    """4096 rows from each generator: other numbers would give another start than the same recipe had before."""
    torch.manual_seed(3)
    weight = MarginHead(2, 5000).weight
    torch.manual_seed(3)
    seed = int(torch.randint(2**62, ()))
    blocks = [0.01 * torch.randn(4096, 2, generator=torch.Generator().manual_seed(seed + block)) for block in (0, 1)]
    assert torch.equal(weight, torch.cat(blocks)[:5000])


@pytest.mark.parametrize("rank", [0, 1, 2])
def test_a_rank_starts_with_its_rows_of_the_whole(rank, be_rank):
    weights = []
    for group in (None, "ranks"):
        be_rank(rank, 3)
        torch.manual_seed(3)
        weights.append(MarginHead(2, 2500, sub_centers=2, group=group).weight)
    rows = range(5000)[2 * (2500 * rank // 3) : 2 * (2500 * (rank + 1) // 3)]
    assert torch.equal(weights[1], weights[0][rows.start : rows.stop])


def test_a_state_dict_has_no_weight_of_one_rank_alone(be_rank):
    be_rank(1, 2)
    whole, half = MarginHead(4, 6), MarginHead(4, 6, group="ranks")
    assert set(whole.state_dict()) == {"weight", "num_samples"} and set(half.state_dict()) == {"num_samples"}
    before = half.weight.clone()
    half.load_state_dict({"num_samples": torch.tensor(3)})
    assert torch.equal(half.weight, before) and half.num_samples == 3
    half.load_state_dict(whole.state_dict())
    assert torch.equal(half.weight, whole.weight[3:])


@pytest.mark.parametrize(
    "training, group, is_initialized, world_size, expected",
    [
        (True, None, True, 2, "all ranks"),
        (False, None, True, 2, None),  # a rank may evaluate alone
        (True, "ranks", True, 2, None),
        (True, None, False, 1, None),
        (True, None, True, 1, None),
    ],
)
def test_which_ranks_have_copies(training, group, is_initialized, world_size, expected, be_rank):
    be_rank(0, world_size, is_initialized)
    assert MarginHead(4, 6, group=group).train(training)._ranks_with_copies() == expected
