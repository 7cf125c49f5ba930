"""Margins by name, and custom margins."""

import re
import textwrap

import pytest
import torch
import torch.nn.functional as F

from hf_face.heads import ArcFaceMargin, ElasticArcFaceMargin, Margin, MarginHead, build_margin
from hf_face.registry import citation_key, margins


@pytest.fixture
def own_margins(monkeypatch):
    """Removes what a test registers."""
    monkeypatch.setattr(margins, "_entries", dict(margins))


def test_one_class_has_several_names():
    plus, plain = build_margin("elastic_arcface_plus"), build_margin("elastic_arcface")
    assert type(plus) is type(plain) is ElasticArcFaceMargin
    assert (plus.plus, plain.plus) == (True, False)
    assert (plus.std, build_margin("elastic_arcface_plus", std=0.1).std) == (0.0175, 0.1)
    assert build_margin("normface").normalize and not build_margin("linear").normalize


@pytest.mark.parametrize(
    "name, options, message",
    [
        ("arcfacs", {}, "No margin is called 'arcfacs'. Did you mean 'arcface'?"),
        ("triplet", {}, "No margin is called 'triplet'. Available: .*arcface.*sphereface"),
        ("arcface", {"h": 0.3}, "'arcface': got an unexpected keyword argument 'h'; its options are: m, beyond_pi"),
    ],
)
def test_unknown_margins_and_options_are_named(name, options, message):
    with pytest.raises(ValueError, match=message):
        build_margin(name, **options)


def test_the_example_is_a_margin_that_trains(own_margins):
    """The docstring's example in a user's module."""
    (example,) = re.findall(r"```python\n(.*?)```", Margin.__doc__, flags=re.DOTALL)
    exec(textwrap.dedent(example), {"__name__": "my_margins"})
    head = MarginHead(8, 5, margin="li_arcface", margin_kwargs={"m": 0.3})
    direction = F.normalize(torch.randn(4, 8), dim=1).requires_grad_()
    loss = head(direction, torch.ones(4, 1), torch.arange(4)).loss
    loss.backward()
    assert head.margin.m == 0.3 and direction.grad.abs().sum() > 0

    centers, labels = head.weight.detach(), torch.arange(4)
    theta = torch.acos(direction.detach() @ F.normalize(centers, dim=1).T)
    theta[labels, labels] += 0.3
    expected = F.cross_entropy(64 * (1 - 2 * theta / torch.pi), labels)
    torch.testing.assert_close(loss, expected)
    assert citation_key(margins["li_arcface"].citations[0]) == "airface"


def test_a_name_is_taken_once(own_margins):
    with pytest.raises(ValueError, match=r"The margin 'arcface' is .*ArcFaceMargin"):
        margins.register("arcface")(type("MyMargin", (Margin,), {}))
    assert margins["arcface"].target is ArcFaceMargin
