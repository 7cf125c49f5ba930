"""Margins by name, and custom margins."""

import math
import re
import textwrap

import pytest
import torch
import torch.nn.functional as F

from hf_face.heads import ArcFaceMargin, ElasticArcFaceMargin, Margin, MarginHead, build_margin
from hf_face.heads.counter_random import counter_normal
from hf_face.heads.margins import add_angle, angle_of
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


def test_monotone_sphereface_is_the_papers_psi():
    angles = [0.01 + 0.05 * step for step in range(62)]
    k = [int(4 * angle / math.pi) for angle in angles]
    expected = [(-1) ** k * math.cos(4 * angle) - 2 * k for k, angle in zip(k, angles, strict=True)]
    cosine = torch.tensor([math.cos(angle) for angle in angles], dtype=torch.float64)
    margined = build_margin("sphereface", monotone=True, eps=0.0)(cosine, torch.ones(62))
    assert margined.tolist() == pytest.approx(expected) and set(k) == {0, 1, 2, 3}


def test_magface_grows_with_the_norm_between_its_bounds():
    margin = build_margin("magface")
    norm = torch.tensor([1.0, 10.0, 60.0, 110.0, 500.0])
    assert margin.margin_of_norm(norm).tolist() == pytest.approx([0.45, 0.45, 0.625, 0.8, 0.8])
    expected = [35 * (a / 110**2 + 1 / a) for a in (10, 10, 60, 110, 110)]
    assert margin.regularizer(norm).tolist() == pytest.approx(expected)


@pytest.mark.parametrize("labeled", [0, 1, 2, 3, 5])
def test_adafaces_statistics_are_those_of_the_labeled_norms(labeled):
    margin = build_margin("adaface", t_alpha=0.25)
    norms = torch.tensor([1e-4, 5.0, 30.0, 99.5, 1000.0])
    margin.prepare(torch.zeros(5), norms, torch.arange(5) < labeled)
    held = norms.clamp(0.001, 100)[:labeled]
    mean, std = held.mean() if labeled else 20.0, held.std() if labeled > 1 else 100.0
    assert margin.norm_mean.item() == pytest.approx(0.75 * 20 + 0.25 * mean)
    assert margin.norm_std.item() == pytest.approx(0.75 * 100 + 0.25 * std)


def test_adafaces_quality_is_held_between_minus_one_and_one():
    h = 0.75
    margin = build_margin("adaface", m=0.3, h=h)
    margin.norm_std.fill_(10)
    cosine, norms = torch.full((5,), 0.2), torch.tensor([1e-6, 15.0, 22.0, 45.0, 1000.0])
    quality = [max(-1, min(1, (min(norm, 100) - 20) / 10.001 * h)) for norm in norms.tolist()]
    assert quality[0] == -1 and quality[-1] == 1 and abs(quality[2]) < 0.2
    expected = [math.cos(math.acos(0.2) - 0.3 * q) - 0.3 * (1 + q) for q in quality]
    assert margin(cosine, norms).tolist() == pytest.approx(expected, abs=1e-6)
    margin.norm_std.fill_(0.0)
    assert margin(cosine[:1], torch.tensor([20.001])).item() == pytest.approx(
        math.cos(math.acos(0.2) - 0.225) - 0.525, abs=1e-3
    ), "norms without any spread"


def test_an_easy_margin_leaves_what_is_at_right_angles_or_beyond():
    cosine = torch.tensor([0.5, 0.0, -0.5])
    margined = build_margin("arcface", easy_margin=True)(cosine, torch.ones(3))
    assert margined.tolist() == pytest.approx([math.cos(math.acos(0.5) + 0.5), 0.0, -0.5], abs=1e-6)


def test_angles_near_zero_and_pi_are_held_without_gradient():
    cosine = torch.tensor([1.0, 0.9, 0.75, 0.5, -0.75, -0.9, -1.0], requires_grad=True)
    angles = angle_of(cosine, eps=0.25)
    held = math.acos(0.75)
    assert angles.tolist() == pytest.approx([held] * 3 + [math.acos(0.5)] + [math.pi - held] * 3)
    angles.sum().backward()
    assert cosine.grad.nonzero().tolist() == [[3]] and cosine.grad[3] < 0


@pytest.mark.parametrize("straight_through", [False, True])
def test_a_combined_margin_is_its_formula(straight_through):
    cosine = torch.tensor([0.9, 0.2, -0.5], dtype=torch.float64, requires_grad=True)
    margin = build_margin("combined", m1=1.2, m2=0.3, m3=0.25, straight_through=straight_through)
    margined = margin(cosine, torch.ones(3))
    expected = [math.cos(1.2 * math.acos(c) + 0.3) - 0.25 for c in cosine.tolist()]
    assert margined.tolist() == pytest.approx(expected)
    (gradient,) = torch.autograd.grad(margined.sum(), cosine)
    assert (gradient == 1).all() == straight_through


def test_the_fallback_begins_where_the_angle_reaches_pi():
    end = math.cos(math.pi - 0.5)
    cosine = torch.tensor([end + 1e-6, end], dtype=torch.float64)
    assert add_angle(cosine, 0.5, "fallback").tolist() == pytest.approx([-1, end - 0.5 * math.sin(0.5)])


def test_curricularface_raises_what_is_above_the_margined_cosine():
    margin = build_margin("curricularface", m=0.5)
    margin.t.fill_(0.3)
    target = torch.tensor([0.8], dtype=torch.float64)
    threshold = add_angle(target, 0.5, "wrap", eps=0.0)[:, None]
    assert threshold.item() == pytest.approx(math.cos(math.acos(0.8) + 0.5))
    below_at_above = torch.cat([threshold - 0.1, threshold, threshold + 0.1], dim=1)
    expected = below_at_above * torch.tensor([1, 1, 0.3 + below_at_above[0, 2]])
    torch.testing.assert_close(margin.negative_rule(target)(below_at_above), expected, check_dtype=False)


@pytest.mark.parametrize("plus", [False, True])
@pytest.mark.parametrize(
    "name, m, stds", [("elastic_arcface", 0.5, (0.05, 0.0175)), ("elastic_cosface", 0.35, (0.05, 0.025))]
)
def test_elastic_margins_are_drawn_by_their_seed_and_count(name, m, stds, plus):
    margin = build_margin(name, plus=plus, seed=7)
    for draw in range(2):
        expected = m + stds[plus] * counter_normal(torch.arange(5), torch.tensor(draw), seed=7)
        drawn = margin.draw_margins(torch.linspace(-0.5, 0.5, 5))
        assert torch.equal(drawn, expected.sort(descending=True).values if plus else expected)


def test_elastic_margins_count_their_draws():
    margin = build_margin("elastic_cosface")
    assert margin.num_draws == 0
    margin.draw_margins(torch.zeros(3))
    assert margin.num_draws == 1


def test_a_name_is_taken_once(own_margins):
    with pytest.raises(ValueError, match=r"The margin 'arcface' is .*ArcFaceMargin"):
        margins.register("arcface")(type("MyMargin", (Margin,), {}))
    assert margins["arcface"].target is ArcFaceMargin
