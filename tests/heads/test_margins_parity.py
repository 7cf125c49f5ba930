"""Margins compared to public implementations (see tests/fixtures/losses/README.md)."""

import functools
import itertools

import numpy as np
import pytest
import torch

from hf_face.heads import (
    AdaFaceMargin,
    ArcFaceMargin,
    CombinedMargin,
    CosFaceMargin,
    ElasticArcFaceMargin,
    ElasticCosFaceMargin,
    MagFaceMargin,
    NoMargin,
    SphereFaceMargin,
    margin_logits,
    margin_softmax_loss,
)

TOLERANCE = 1e-5
ALL_SETS = ("far", "near", "edge")

# Reference file and variant -> our margin, with that reference's clamps, and further arguments of the loss.
REFERENCES = {
    "insightface_arcface": (lambda: ArcFaceMargin(0.5, straight_through=True), {}),
    "insightface_arcface_filter": (lambda: ArcFaceMargin(0.5, straight_through=True), {"filter_threshold": 0.4}),
    "insightface_cosface": (lambda: CosFaceMargin(0.4), {}),
    "insightface_cosface_filter": (lambda: CosFaceMargin(0.4), {"filter_threshold": 0.4}),
    "timmface_arcface": (ArcFaceMargin, {}),
    "timmface_cosface": (lambda: CosFaceMargin(0.4), {}),
    "adaface_adaface_talpha1": (lambda: AdaFaceMargin(t_alpha=1.0), {}),
    "adaface_arcface": (lambda: ArcFaceMargin(eps=1e-4), {}),
    "adaface_cosface": (lambda: CosFaceMargin(0.4), {}),
    "femb_sphereface": (lambda: SphereFaceMargin(eps=1e-6), {"scale": 1.0}),
    "femb_arcface": (lambda: ArcFaceMargin(beyond_pi="wrap", eps=1e-6), {}),
    "femb_cosface:default": (CosFaceMargin, {"scale": 1.0}),
    "femb_cosface:scaled": (lambda: CosFaceMargin(0.4), {}),
    "femb_linear": (lambda: NoMargin(normalize=False), {"scale": 1.0}),
    "femb_arcmarginproduct:hard": (lambda: ArcFaceMargin(beyond_pi="fallback", eps=1e-6), {}),
    "femb_arcmarginproduct:easy": (lambda: ArcFaceMargin(easy_margin=True, eps=1e-6), {}),
    "femb_magface:paper": (lambda: MagFaceMargin(lambda_g=20.0, beyond_pi="wrap", eps=1e-6), {}),
    "femb_magface:file": (lambda: MagFaceMargin(lambda_g=0.0, beyond_pi="wrap", eps=1e-6), {}),
}


@pytest.fixture
def inputs(fixtures):
    return np.load(fixtures / "losses" / "inputs.npz")


def embeddings_of(inputs, name):
    return torch.tensor(inputs[f"{name}_embeddings"], dtype=torch.float64, requires_grad=True)


def problem(inputs, name):
    weight = torch.tensor(inputs["weight"], dtype=torch.float64, requires_grad=True)
    return embeddings_of(inputs, name), weight, torch.tensor(inputs["labels"]).long()


def assert_close(got, want, what):
    want = torch.as_tensor(want, dtype=torch.float64)
    error = (got.detach().double() - want).abs().max() / want.abs().max()
    assert error <= TOLERANCE, f"{what}: {error:.1e} relative"


def check(reference, prefix, margin, inputs, name, chunk_size=None, **kwargs):
    embeddings, weight, labels = problem(inputs, name)
    loss = margin_softmax_loss(embeddings, weight, labels, margin, chunk_size=chunk_size, **kwargs)
    loss.backward()
    assert_close(loss, reference[f"{prefix}_loss"], "loss")
    assert_close(embeddings.grad, reference[f"{prefix}_grad_embeddings"], "gradient of the embeddings")
    assert_close(weight.grad, reference[f"{prefix}_grad_weight"], "gradient of the centers")


@pytest.mark.parametrize("chunk_size", [None, 7])
@pytest.mark.parametrize(
    "reference_name, name",
    [*itertools.product(REFERENCES, ALL_SETS), ("adaface_adaface_talpha1", "outlier")],  # the outlier's q is clipped
)
def test_matches_reference(reference_name, name, chunk_size, inputs, fixtures):
    file, _, variant = reference_name.partition(":")
    reference = np.load(fixtures / "losses" / f"{file}.npz")
    prefix = f"{name}_{variant}" if variant else name
    build, kwargs = REFERENCES[reference_name]
    check(reference, prefix, build(), inputs, name, chunk_size, **kwargs)
    embeddings, weight, labels = problem(inputs, name)
    # MagFace's `paper` variant shares the logits of `file`, which adds a constant to all of them.
    if file != "femb_magface":
        assert_close(
            margin_logits(embeddings, weight, labels, build(), **kwargs), reference[f"{prefix}_logits"], "logits"
        )


@pytest.mark.parametrize("name", ("far", "near"))
@pytest.mark.parametrize("reference_name", [n for n in REFERENCES if not n.startswith(("insightface_arc", "femb_lin"))])
def test_default_clamps_match_every_reference_away_from_the_edge(reference_name, name, inputs, fixtures):
    file, _, variant = reference_name.partition(":")
    margin, kwargs = REFERENCES[reference_name][0](), REFERENCES[reference_name][1]
    if hasattr(margin, "eps"):
        margin.eps = 1e-3
    reference = np.load(fixtures / "losses" / f"{file}.npz")
    check(reference, f"{name}_{variant}" if variant else name, margin, inputs, name, **kwargs)


@pytest.mark.parametrize("name", (*ALL_SETS, "outlier"))
@pytest.mark.parametrize(
    "file, mean, std", [("timmface_adaface", "norm_mean", "norm_std"), ("adaface_adaface", "batch_mean", "batch_std")]
)
def test_adaface_statistics_and_loss_over_four_steps(file, mean, std, name, inputs, fixtures):
    reference = np.load(fixtures / "losses" / f"{file}.npz")
    margin = AdaFaceMargin()
    for step in range(1, 5):
        if step in (1, 4):
            check(reference, f"{name}_step{step}", margin, inputs, name)
            assert_close(margin.norm_mean, reference[f"{name}_step{step}_{mean}"], "norm_mean")
            assert_close(margin.norm_std, reference[f"{name}_step{step}_{std}"], "norm_std")
            logits = margin_logits(*problem(inputs, name), margin.eval())  # with the statistics as they are
            assert_close(logits, reference[f"{name}_step{step}_logits"], "logits")
            margin.train()
        else:
            margin_softmax_loss(*problem(inputs, name), margin)


@pytest.mark.parametrize("plus", [False, True])
@pytest.mark.parametrize("kind", ["arcface", "cosface"])
@pytest.mark.parametrize("name", ALL_SETS)
def test_elastic_with_given_margins(kind, plus, name, inputs, fixtures, monkeypatch):
    reference = np.load(fixtures / "losses" / f"elastic_{kind}{'_plus' if plus else ''}.npz")
    build = {
        "arcface": functools.partial(ElasticArcFaceMargin, beyond_pi="wrap", eps=1e-6),
        "cosface": ElasticCosFaceMargin,
    }
    margin = build[kind](plus=plus)
    drawn = torch.tensor(reference[f"{name}_margins_applied"], dtype=torch.float64)
    monkeypatch.setattr(margin, "draw_margins", lambda cosine: drawn)
    check(reference, name, margin, inputs, name)
    assert_close(margin_logits(*problem(inputs, name), margin), reference[f"{name}_logits"], "logits")


@pytest.mark.parametrize("name", ALL_SETS)
def test_magface_margin_and_regularizer(name, inputs, fixtures):
    reference = np.load(fixtures / "losses" / "femb_magface.npz")
    norm = embeddings_of(inputs, name).norm(dim=1)
    margin = MagFaceMargin(lambda_g=1.0)
    assert_close(margin.margin_of_norm(norm), reference[f"{name}_file_m"], "m")
    assert_close(margin.regularizer(norm), reference[f"{name}_file_g"], "g")
    logits = margin_logits(*problem(inputs, name), MagFaceMargin(beyond_pi="wrap", eps=1e-6))
    assert_close(logits + 20 * reference[f"{name}_file_g_mean"], reference[f"{name}_file_logits"], "logits")


@pytest.mark.parametrize(
    "file", ["insightface_arcface", "insightface_cosface", "insightface_arcface_filter", "insightface_cosface_filter"]
)
def test_ignored_rows_have_plain_cosines_and_no_part_in_the_loss(file, inputs, fixtures):
    reference = np.load(fixtures / "losses" / f"{file}.npz")
    build, kwargs = REFERENCES[file]
    embeddings, weight, _ = problem(inputs, "near")
    labels = torch.tensor(reference["near_ignored_labels"]).long().flatten()
    assert_close(
        margin_logits(embeddings, weight, labels, build(), **kwargs), reference["near_ignored_logits"], "logits"
    )
    kept = labels >= 0
    of_all = margin_softmax_loss(embeddings, weight, labels, build(), **kwargs)
    of_kept = margin_softmax_loss(embeddings[kept], weight, labels[kept], build(), **kwargs)
    torch.testing.assert_close(of_all, of_kept)


def test_combined_margin_contains_the_named_ones(inputs):
    for named, combined in (
        (ArcFaceMargin(0.5), CombinedMargin(1.0, 0.5, 0.0)),
        (SphereFaceMargin(4.0), CombinedMargin(4.0, 0.0, 0.0, beyond_pi="wrap")),
        (CosFaceMargin(0.4), CombinedMargin(1.0, 0.0, 0.4)),
    ):
        got, want = (margin_softmax_loss(*problem(inputs, "near"), m) for m in (combined, named))
        torch.testing.assert_close(got, want)


@pytest.mark.parametrize("name", ("far", "clamped"))
def test_sample_weights_match_transface(name, fixtures):
    case = np.load(fixtures / "transface" / "ehsm.npz")
    embeddings = torch.tensor(case[f"{name}_embeddings"], dtype=torch.float64, requires_grad=True)
    weight = torch.tensor(case["weight"], dtype=torch.float64, requires_grad=True)
    labels, sample_weight = torch.tensor(case["labels"]).long(), torch.tensor(case["sample_weight"]).double()
    margin = ArcFaceMargin(0.5, straight_through=True)
    loss = margin_softmax_loss(embeddings, weight, labels, margin, sample_weight=sample_weight)
    loss.backward()
    assert_close(embeddings.grad, case[f"{name}_grad_embeddings"], "gradient of the embeddings")
    assert_close(weight.grad, case[f"{name}_grad_weight"], "gradient of the centers")
    each = torch.stack(
        [margin_softmax_loss(e[None], weight, y[None], margin) for e, y in zip(embeddings, labels, strict=True)]
    )
    torch.testing.assert_close(loss, (each * sample_weight).mean())
    # The reference reports a loss with probabilities floored at 1e-30; its gradient, like ours, knows no floor.
    assert_close((each.clamp(max=-np.log(1e-30)) * sample_weight).mean(), case[f"{name}_loss"], "loss")
