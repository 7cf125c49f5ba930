"""Partial FC: which classes are drawn, what they represent, and which rows the optimizer leaves unchanged."""

import math

import numpy as np
import pytest
import torch

from hf_face.heads import MarginHead, clip_grad_norm_, step_sampled_rows_only
from hf_face.heads.counter_random import counter_normal, counter_uniform
from hf_face.heads.margin_softmax import unit_and_norm
from hf_face.heads.partial_fc import sample_classes, sampled_classes


def sampled_head(num_identities=200, rate=0.3, **kwargs):
    torch.manual_seed(0)
    return MarginHead(8, num_identities, sample_rate=rate, **kwargs)


def batch(num_identities=200, size=6):
    generator = torch.Generator().manual_seed(1)
    return torch.randn(size, 8, generator=generator), torch.randint(num_identities, (size,), generator=generator)


def test_counter_random_is_uniform_normal_and_different_every_step():
    index = torch.arange(100_000)
    draws = counter_uniform(index, torch.tensor(3), seed=1)
    assert draws.min() > 0 and draws.max() < 1
    assert torch.histc(draws, 10, 0, 1).sub(10_000).abs().max() < 500
    assert abs(draws[:-1].sub(0.5).dot(draws[1:].sub(0.5)).item()) / 100_000 < 1e-3, "neighbors are not correlated"
    for other in (counter_uniform(index, torch.tensor(4), seed=1), counter_uniform(index, torch.tensor(3), seed=2)):
        assert abs((draws - 0.5).dot(other - 0.5).item()) / 100_000 < 1e-3
    normal = counter_normal(index, torch.tensor(3), seed=0)
    assert normal.mean().abs() < 0.02 and (normal.std() - 1).abs() < 0.02


def test_counter_random_is_the_published_hash():
    """lowbias32, in numpy's 32 bits."""

    def mix(x):
        x = (x ^ (x >> np.uint32(16))) * np.uint32(0x7FEB352D)
        x = (x ^ (x >> np.uint32(15))) * np.uint32(0x846CA68B)
        return x ^ (x >> np.uint32(16))

    index = np.array([0, 1, 2, 1000, 2**31, 2**32 - 1], dtype=np.uint32)
    for step, seed in ((0, 0), (3, 7), (2**31, 12345)):
        key = mix(np.array([step], np.uint32) + mix(np.array([seed], np.uint32) + np.uint32(1)))
        expected = ((mix(mix(index) + key) >> np.uint32(8)) + 0.5) / 2**24
        draws = counter_uniform(torch.from_numpy(index.astype(np.int64)), torch.tensor(step), seed)
        np.testing.assert_array_equal(draws, expected.astype(np.float32))


def test_every_training_step_draws_another_sample():
    head = sampled_head()
    assert head.num_samples == 0
    first = head.sample(torch.tensor([0]))
    head(*unit_and_norm(batch()[0]), batch()[1])
    assert head.num_samples == 1 and not torch.equal(head.sample(torch.tensor([0])), first)
    head.eval()(*unit_and_norm(batch()[0]), batch()[1])
    assert head.num_samples == 1, "evaluation does not count"


def test_sample_holds_the_batch_and_the_stated_share_of_the_others():
    labels = torch.tensor([0, 5, 5, 999, -1, 1000])
    sizes = []
    for step in range(50):
        sample = sample_classes(labels, 1000, 0.3, 0, torch.tensor(step), seed=0)
        assert (sample.diff() > 0).all() and {0, 5, 999} <= set(sample.tolist())
        sizes.append(len(sample))
    assert sum(sizes) / 50 == pytest.approx(3 + 0.3 * 997, rel=0.02)


def test_a_class_is_drawn_if_its_number_is_below_the_rate():
    draws = counter_uniform(torch.arange(100), torch.tensor(0), seed=0)
    sample = sample_classes(torch.tensor([-1]), 100, draws[50].item(), 0, torch.tensor(0), seed=0)
    assert torch.equal(sample, (draws < draws[50]).nonzero()[:, 0])


def test_no_class_is_sampled():
    classes = sampled_classes(torch.eye(4), torch.tensor([0, 1, -1]), torch.arange(0), 0.25, sub_centers=1)
    assert len(classes) == 0 and classes.log_weight is None


@pytest.mark.parametrize("sample", [[0, 3, 9], [9], [0, 9]])
def test_classes_of_a_sample_are_found_from_the_first_to_the_last(sample):
    labels = torch.tensor([0, 3, 5, 9, 10, -1])
    classes = sampled_classes(torch.eye(10), labels, torch.tensor(sample), 0.25, sub_centers=1)
    assert classes.labels.tolist() == [sample.index(label) if label in sample else -1 for label in labels.tolist()]
    weights = [0.0 if label in labels.tolist() else math.log(4) for label in sample]
    assert classes.log_weight.tolist() == pytest.approx(weights)
    assert torch.equal(classes.centers, torch.eye(10)[sample])


def test_shards_draw_what_the_whole_would():
    labels, step = torch.tensor([3, 70]), torch.tensor(9)
    whole = sample_classes(labels, 100, 0.3, 0, step, seed=0)
    parts = [sample_classes(labels - first, 50, 0.3, first, step, seed=0) + first for first in (0, 50)]
    assert torch.equal(torch.cat(parts), whole)


@pytest.mark.parametrize("sub_centers", [1, 2])
def test_sum_over_negatives_has_the_full_softmax_expectation(sub_centers):
    """exp(loss) - 1 of a sample is the sum over its negatives, divided by its own exponential."""
    head = sampled_head(60, rate=0.25, margin="normface", scale=4.0, sub_centers=sub_centers)
    embeddings, labels = batch(60, size=1)
    want = head.eval()(*unit_and_norm(embeddings), labels).loss.exp() - 1
    head.train()
    draws = torch.stack([head(*unit_and_norm(embeddings), labels).loss.exp() - 1 for _ in range(400)])
    assert draws.std() > 0
    assert draws.mean().item() == pytest.approx(want.item(), abs=4 * draws.std().item() / 400**0.5)


@pytest.mark.parametrize("chunk_size", [None, 16])
def test_loss_and_gradient_are_those_of_the_sampled_classes_alone(chunk_size, monkeypatch):
    head, (embeddings, labels) = sampled_head(margin="arcface", chunk_size=chunk_size), batch()
    sample = head.sample(labels)
    monkeypatch.setattr(head, "sample", lambda labels: sample)
    head(*unit_and_norm(embeddings), labels).loss.backward()
    assert head.weight.grad.is_sparse
    assert set(head.weight.grad.coalesce().indices()[0].tolist()) == set(sample.tolist())

    centers = head.weight.detach()[sample].requires_grad_()
    cosine = torch.nn.functional.normalize(embeddings) @ torch.nn.functional.normalize(centers).T
    own = sample == labels[:, None]
    drawn = ~torch.isin(sample, labels)
    target = torch.cos(torch.acos(cosine[own]) + 0.5)
    logits = torch.where(own, 64 * target[:, None], 64 * cosine - drawn * torch.log(torch.tensor(0.3)))
    loss = torch.nn.functional.cross_entropy(logits, own.int().argmax(1))
    loss.backward()
    torch.testing.assert_close(head.weight.grad.to_dense()[sample], centers.grad, rtol=1e-4, atol=1e-5)


OPTIMIZERS = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, weight_decay=0.01),
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.1, weight_decay=0.1),
    "adam, one loop": lambda p: torch.optim.Adam(p, lr=0.1, foreach=False),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_optimizer_leaves_other_rows_and_their_state_alone(name, monkeypatch):
    head, (embeddings, labels) = sampled_head(20), batch(20)
    unused, dense = (torch.nn.Parameter(torch.ones(20, 8)) for _ in range(2))
    dense.grad = torch.ones_like(dense)
    optimizer = OPTIMIZERS[name]([unused, dense, head.weight])
    step_sampled_rows_only(optimizer)
    for sample in (torch.arange(20), torch.cat([labels.unique(), torch.tensor([0, 19])]).unique()):
        monkeypatch.setattr(head, "sample", lambda labels, sample=sample: sample)
        before = head.weight.detach().clone()
        state_before = {key: value.clone() for key, value in optimizer.state[head.weight].items()}
        head.weight.grad = None
        head(*unit_and_norm(embeddings), labels).loss.backward()
        optimizer.step()
    assert (unused == 1).all() and (dense < 1).all()
    others = torch.ones(20, dtype=torch.bool)
    others[sample] = False
    assert others.any() and head.weight.shape == before.shape
    assert torch.equal(head.weight[others], before[others]) and not (head.weight[~others] == before[~others]).any()
    moments = [key for key, value in state_before.items() if value.shape == before.shape]
    assert moments
    for key in moments:
        assert torch.equal(optimizer.state[head.weight][key][others], state_before[key][others])
        assert not torch.equal(optimizer.state[head.weight][key][~others], state_before[key][~others])


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_sampled_steps_equal_dense_ones_when_all_is_sampled(name, monkeypatch):
    weights = []
    for rate in (1.0, 0.999):
        head, (embeddings, labels) = sampled_head(20, rate), batch(20)
        head.weight.data *= 30
        if rate < 1:
            monkeypatch.setattr(head, "sample", lambda labels: torch.arange(20))
            head.sample_rate = 1 - 1e-12  # log(1 / rate) is nothing
        optimizer = OPTIMIZERS[name](head.parameters())
        step_sampled_rows_only(optimizer)
        for _ in range(3):
            optimizer.zero_grad()
            head(*unit_and_norm(embeddings), labels).loss.backward()
            optimizer.step()
        weights.append(head.weight.detach())
    torch.testing.assert_close(*weights, rtol=1e-5, atol=1e-6)


def test_gradients_of_several_samples_add_up():
    head, (embeddings, labels) = sampled_head(), batch()
    sparse = []
    for _ in range(2):
        head.weight.grad = None
        head(*unit_and_norm(embeddings), labels).loss.backward()
        sparse.append(head.weight.grad.to_dense())
    head.num_samples -= 2
    head.weight.grad = None
    for _ in range(2):
        head(*unit_and_norm(embeddings), labels).loss.backward()
    torch.testing.assert_close(head.weight.grad.to_dense(), sparse[0] + sparse[1])
    assert head.num_samples == 2 and not torch.equal(*sparse)
    norm = clip_grad_norm_([head.weight], 1.0)
    torch.testing.assert_close(norm, (sparse[0] + sparse[1]).norm())
    torch.testing.assert_close(head.weight.grad.to_dense().norm(), torch.tensor(1.0))


@pytest.mark.parametrize("max_norm", [0.1, 1e3, 1e-6])
def test_clipping_equals_torchs(max_norm):
    mine, theirs = (torch.nn.Linear(5, 3) for _ in range(2))
    theirs.load_state_dict(mine.state_dict())
    for model in (mine, theirs):
        model(torch.ones(2, 5)).square().sum().backward()
    got = clip_grad_norm_(mine.parameters(), max_norm)
    want = torch.nn.utils.clip_grad_norm_(theirs.parameters(), max_norm)
    torch.testing.assert_close(got, want)
    for p, q in zip(mine.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(p.grad, q.grad)


@pytest.mark.parametrize("rate", [0.0, 1.5, -1])
def test_sample_rate_out_of_range_is_named(rate):
    with pytest.raises(ValueError, match=r"sample_rate must be in \(0, 1\]"):
        sampled_head(rate=rate)


def test_clipping_of_a_vanishing_gradient_does_not_divide_by_zero():
    parameter = torch.nn.Parameter(torch.zeros(3))
    for gradient in (0.0, 1e-6):
        parameter.grad = torch.full((3,), gradient)
        clip_grad_norm_([parameter], 1e-6)
        torch.testing.assert_close(parameter.grad, torch.full((3,), gradient / (1 + 3**0.5) if gradient else 0.0))


def test_class_centers_start_small_and_differ():
    weight = MarginHead(8, 5000).weight
    assert weight.std().item() == pytest.approx(0.01, rel=0.05) and abs(weight.mean().item()) < 1e-3
    assert len(torch.unique(weight[:, 0])) > 4990, "more rows than one generator draws"
    assert not torch.equal(MarginHead(8, 5).weight, MarginHead(8, 5).weight)


@pytest.mark.parametrize("rate", [1e-3, 1.0])
def test_sample_rates_up_to_one(rate):
    assert sampled_head(rate=rate).sample_rate == rate
