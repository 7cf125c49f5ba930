"""A memory of embeddings and the losses with it, on embeddings made by hand: LVFace's and UniTSFace's."""

import math
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F

from hf_face.heads import MarginHead
from hf_face.heads.margin_softmax import NEVER
from hf_face.models import FaceEmbeddingOutput
from hf_face.training import LVFace, UniTSFace
from hf_face.training.methods import identity_memory
from hf_face.training.methods.identity_memory import IdentityMemory
from hf_face.training.methods.lvface import follow


def fill(memory: IdentityMemory, known) -> None:
    memory.vectors[list(known)] = F.normalize(torch.randn(len(known), memory.vectors.shape[1]), dim=1)


def test_a_memory_holds_the_last_embedding_of_each_identity():
    memory = IdentityMemory(4, 2)
    memory.update(torch.tensor([2, -1, 0, 2]), torch.arange(8.0).view(4, 2))
    assert memory.vectors.tolist() == [[4, 5], [0, 0], [6, 7], [0, 0]]
    assert memory.known.tolist() == [True, False, True, False]
    memory.update(torch.tensor([2, 3]), torch.ones(2, 2), merge=lambda old, new: old + new)
    assert memory.vectors.tolist() == [[4, 5], [0, 0], [7, 8], [1, 1]]
    memory.update(torch.tensor([-1]), torch.ones(1, 2))
    assert memory.known.tolist() == [True, False, True, True]


def test_a_memory_holds_the_embeddings_of_all_ranks(monkeypatch):
    monkeypatch.setattr(identity_memory.dist, "is_initialized", lambda: True)
    monkeypatch.setattr(identity_memory.dist, "group", identity_memory.dist.GroupMember, raising=False)
    monkeypatch.setattr(identity_memory, "gather_rows", lambda rows, group: torch.cat([rows, rows + 1]))
    memory = IdentityMemory(4, 2)
    memory.update(torch.tensor([0, 1]), torch.tensor([[1.0, 1.0], [5.0, 5.0]]))
    assert memory.vectors.tolist() == [[1, 1], [2, 2], [6, 6], [0, 0]]


@pytest.mark.parametrize("labels", [[-1, 2], [-1, -1], [1, 2]])
@pytest.mark.parametrize("autocast", [False, True])
def test_the_loss_is_a_mean_over_samples_with_a_label(labels, autocast):
    method = UniTSFace(m=0.2, scale=8.0)
    method.memory, method.bias = IdentityMemory(4, 3), torch.nn.Parameter(torch.tensor([1.5]))
    torch.manual_seed(0)
    fill(method.memory, known=[1, 2])
    embeddings = F.normalize(torch.randn(2, 3), dim=1)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        found = method.compare(SimpleNamespace(pooler_output=embeddings), torch.tensor(labels))
    losses = []
    for embedding, label in zip(embeddings, labels, strict=True):
        for identity in (1, 2) if label >= 0 else ():
            logit = 8 * (embedding @ method.memory.vectors[identity] - 0.2 * (identity == label)) - 1.5
            losses.append(F.softplus(-logit if identity == label else logit))
    count = max(1, sum(label >= 0 for label in labels))
    torch.testing.assert_close(found["loss"], sum(losses, torch.tensor(0.0)) / count)
    assert found["threshold"] == pytest.approx(1.5 / 8)


@pytest.mark.parametrize("rate", [1.0, 0.5])
def test_expectations_are_of_the_identities_that_the_head_samples(rate):
    head = MarginHead(3, 40, "cosface", sample_rate=rate)
    method = LVFace()
    method._head, method.expectations = (head,), IdentityMemory(40, 3)
    torch.manual_seed(0)
    fill(method.expectations, known=range(1, 20))
    labels = torch.tensor([0, 7, -1, 30])
    head.num_samples += 5
    sample = head.sample(labels)
    classes = method._classes(labels)
    assert 10 < len(sample) < 40 or (rate == 1 and len(sample) == 40)
    assert torch.equal(classes.centers, method.expectations.vectors[sample])
    assert sample[classes.labels[[0, 1, 3]]].tolist() == [0, 7, 30] and classes.labels[2] == -1
    for identity, weight in zip(sample.tolist(), classes.log_weight.tolist(), strict=True):
        known = 0 if identity == 7 else -math.log(rate)
        assert weight == pytest.approx(known if 1 <= identity < 20 else NEVER)
    embedding = FaceEmbeddingOutput(F.normalize(torch.randn(4, 3), dim=1), torch.ones(4, 1))
    penalty = method.penalty(embedding, labels)
    assert (penalty[[0, 3]] == NEVER).all() and -1000 < penalty[1] < 1000 and penalty.isfinite().all()


def test_a_penalty_has_the_margin_of_the_own_expectation():
    head, method = MarginHead(3, 4, "cosface", scale=8.0), LVFace()
    method._head, method.expectations = (head,), IdentityMemory(4, 3)
    torch.manual_seed(0)
    fill(method.expectations, known=[0, 1, 2])
    direction, labels = F.normalize(torch.randn(3, 3), dim=1), torch.tensor([0, 2, 1])
    logits = 8 * direction @ method.expectations.vectors[:3].T
    own = logits.gather(1, labels[:, None])[:, 0] - 8 * head.margin.m
    others = logits.scatter(1, labels[:, None], -torch.inf).logsumexp(1)
    penalty = method.penalty(FaceEmbeddingOutput(direction, torch.ones(3, 1)), labels)
    torch.testing.assert_close(penalty, others - own)


def test_an_expectation_moves_less_the_nearer_it_is():
    near, far = follow(torch.tensor([[1.0, 0.0]] * 2), torch.tensor([[1.0, 0.1], [-1.0, 0.1]]))
    assert near[1] / 0.1 == pytest.approx(1 / (1 + math.e), rel=0.01)
    assert far[1] / 0.1 == pytest.approx(math.e / (1 + math.e), rel=0.01)
