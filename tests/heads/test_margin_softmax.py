"""The margin softmax: exact in value and gradient, chunked or not, and finite for any input."""

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

import hf_face.heads.margin_softmax
from hf_face.heads import (
    MARGINS,
    ArcFaceMargin,
    MarginHead,
    NoMargin,
    build_margin,
    margin_logits,
    margin_softmax_loss,
)
from hf_face.heads.margin_softmax import Classes, margin_softmax, unit_and_norm

VARIANTS = [
    *((name, {}) for name in MARGINS),
    ("sphereface", {"monotone": True}),
    ("arcface", {"beyond_pi": "wrap"}),
    ("arcface", {"beyond_pi": "fallback"}),
    ("arcface", {"easy_margin": True}),
]


UNHELD = [(name, {"eps": 0.0}) for name in ("arcface", "sphereface", "adaface", "magface", "elastic_arcface")]


def problem(batch_size=6, num_classes=10, size=5, dtype=torch.float64, seed=0):
    generator = torch.Generator().manual_seed(seed)
    embeddings = torch.randn(batch_size, size, generator=generator, dtype=dtype).mul_(12).requires_grad_()
    centers = torch.randn(num_classes, size, generator=generator, dtype=dtype).requires_grad_()
    labels = torch.randint(num_classes, (batch_size,), generator=generator)
    labels[1] = labels[0]
    return embeddings, centers, labels


def frozen(name, kwargs):
    """In `eval()`, so that statistics and margins stay the same between the evaluations of a numeric gradient."""
    margin = build_margin(name, **kwargs).double().eval()
    if name == "curricularface":
        margin.t.fill_(0.4)
    if name == "adaface":
        margin.norm_std.fill_(10)
    return margin


@pytest.mark.parametrize("chunk_size", [None, 4])
@pytest.mark.parametrize("name, kwargs", VARIANTS)
def test_gradient_is_true(name, kwargs, chunk_size):
    embeddings, centers, labels = problem(batch_size=3, num_classes=5, size=3)
    margin = frozen(name, kwargs)

    def loss(embeddings, centers):
        return margin_softmax_loss(embeddings, centers, labels, margin, scale=8.0, chunk_size=chunk_size)

    # AdaFace's quality is a constant by definition: only directions may vary for the numeric gradient to agree.
    if name == "adaface":
        fixed = embeddings.detach().norm(dim=1, keepdim=True)
        assert torch.autograd.gradcheck(
            lambda e, c: loss(e / e.norm(dim=1, keepdim=True) * fixed, c), (embeddings, centers)
        )
    else:
        assert torch.autograd.gradcheck(loss, (embeddings, centers))


@pytest.mark.parametrize("sub_centers, filter_threshold", [(3, None), (1, 0.2), (2, 0.2)])
def test_gradient_is_true_with_sub_centers_and_filter(sub_centers, filter_threshold):
    embeddings, centers, labels = problem(batch_size=4, num_classes=6 * sub_centers, size=3)
    labels = labels % 6

    def loss(embeddings, centers, chunk_size):
        return margin_softmax_loss(
            embeddings,
            centers,
            labels,
            scale=8.0,
            chunk_size=chunk_size,
            sub_centers=sub_centers,
            filter_threshold=filter_threshold,
        )

    for chunk_size in (None, 4):
        assert torch.autograd.gradcheck(lambda e, c, k=chunk_size: loss(e, c, k), (embeddings, centers))


@pytest.mark.parametrize("name, kwargs", VARIANTS)
def test_loss_is_the_cross_entropy_of_the_logits(name, kwargs):
    embeddings, centers, labels = problem(batch_size=32, num_classes=50, size=8)
    margin = frozen(name, kwargs)
    want = F.cross_entropy(margin_logits(embeddings, centers, labels, margin), labels)
    if name == "magface":
        want = want + margin.regularizer(embeddings.norm(dim=1)).mean()
    grads = torch.autograd.grad(want, (embeddings, centers))
    for chunk_size in (None, 1, 7, 50, 1000):
        got = margin_softmax_loss(embeddings, centers, labels, margin, chunk_size=chunk_size)
        torch.testing.assert_close(got, want, rtol=1e-12, atol=1e-12)
        for got_grad, want_grad in zip(torch.autograd.grad(got, (embeddings, centers)), grads, strict=True):
            torch.testing.assert_close(got_grad, want_grad, rtol=1e-9, atol=1e-12)


def test_normface_is_the_softmax_of_scaled_cosines():
    embeddings, centers, labels = problem()
    want = F.cross_entropy(64 * F.normalize(embeddings) @ F.normalize(centers).T, labels)
    torch.testing.assert_close(margin_softmax_loss(embeddings, centers, labels, NoMargin()), want)


def test_sub_centers_take_the_nearest():
    embeddings, centers, labels = problem(num_classes=30)
    cosine = (F.normalize(embeddings) @ F.normalize(centers).T).view(-1, 10, 3).max(2).values
    got = margin_softmax_loss(embeddings, centers, labels % 10, NoMargin(), sub_centers=3)
    torch.testing.assert_close(got, F.cross_entropy(64 * cosine, labels % 10))


def test_curricularface_raises_hard_negatives_with_the_running_mean_of_target_cosines():
    margin = build_margin("curricularface", m=0.5)
    embeddings, centers, labels = (
        torch.eye(3, dtype=torch.float64)[:1],
        torch.tensor([[0.8, 0.6, 0], [0.7, 0, 0.714]]).double(),
        torch.tensor([0]),
    )
    cosine, hard = 0.8, 0.7 / math.hypot(0.7, 0.714)
    logits = margin_logits(embeddings, centers, labels, margin, scale=1.0)
    t = 0.01 * cosine
    assert hard > math.cos(math.acos(cosine) + 0.5)
    assert logits[0].tolist() == pytest.approx([math.cos(math.acos(cosine) + 0.5), hard * (t + hard)], abs=1e-6)


def test_elastic_plus_gives_the_largest_margin_to_the_hardest_sample():
    margin = build_margin("elastic_cosface_plus", std=0.1)
    cosine = torch.rand(200, generator=torch.Generator().manual_seed(0))
    margins = margin.draw_margins(cosine)
    assert (margins[cosine.argsort()].diff() <= 0).all()
    assert margins.mean().item() == pytest.approx(0.35, abs=0.03) and margins.std().item() == pytest.approx(
        0.1, abs=0.02
    )
    assert not torch.equal(margins, margin.draw_margins(cosine)), "every step draws anew"
    assert torch.equal(margin.eval().draw_margins(cosine), torch.full((200,), 0.35))


def test_monotone_sphereface_falls_all_the_way():
    cosine = torch.linspace(-0.998, 0.998, 500).flip(0)
    margined = build_margin("sphereface", m=4, monotone=True)(cosine, torch.ones(500))
    assert (margined.diff() < 0).all() and margined[-1] < -6


@pytest.mark.parametrize("name, kwargs", VARIANTS + UNHELD)
@pytest.mark.parametrize("chunk_size", [None, 3])
def test_cosines_of_one_and_minus_one_zero_and_equal_embeddings_stay_finite(name, kwargs, chunk_size):
    centers = torch.eye(4, 6).requires_grad_()
    cases = {
        "cosine 1": torch.eye(4, 6) * 32,
        "cosine -1": torch.eye(4, 6) * -32,
        "zero": torch.zeros(4, 6),
        "all equal": torch.ones(4, 6),
        "huge": torch.eye(4, 6) * 1e15,
        "tiny": torch.eye(4, 6) * 1e-8,
    }
    for what, embeddings in cases.items():
        embeddings.requires_grad_()
        for size in (4, 1):
            loss = margin_softmax_loss(
                embeddings[:size], centers, torch.arange(size), build_margin(name, **kwargs), chunk_size=chunk_size
            )
            grads = torch.autograd.grad(loss, (embeddings, centers))
            assert loss.isfinite() and all(g.isfinite().all() for g in grads), what


def test_without_any_class_there_is_neither_loss_nor_gradient():
    """As on a rank that has no class."""
    direction = torch.eye(3, 4).requires_grad_()
    classes, labeled = Classes(torch.empty(0, 4), torch.arange(3)), torch.ones(3, dtype=torch.bool)
    softmax = margin_softmax(direction, torch.ones(3, 1), classes, labeled, NoMargin(), scale=8.0)
    assert softmax.cross_entropy.tolist() == softmax.target_cosine.tolist() == [0, 0, 0]
    (gradient,) = torch.autograd.grad(softmax.excess.sum(), direction)
    assert (gradient == 0).all()


def test_zero_centers_and_a_single_class_stay_finite():
    for centers in (torch.zeros(3, 4), torch.ones(1, 4)):
        embeddings, centers = torch.randn(2, 4).requires_grad_(), centers.requires_grad_()
        for chunk_size in (None, 1):
            loss = margin_softmax_loss(embeddings, centers, torch.zeros(2, dtype=torch.long), chunk_size=chunk_size)
            loss.backward()
            assert loss.isfinite() and embeddings.grad.isfinite().all() and centers.grad.isfinite().all()
    assert loss == 0, "one class has no negatives"


finite_rows = st.lists(
    st.lists(st.floats(-1e4, 1e4, width=32) | st.sampled_from([0.0, 1e-7, -1.0, 1.0]), min_size=3, max_size=3),
    min_size=1,
    max_size=5,
)


@settings(max_examples=100, deadline=None)
@given(
    embeddings=finite_rows,
    centers=finite_rows,
    variant=st.sampled_from(VARIANTS + UNHELD),
    scale=st.sampled_from([1.0, 64.0, 512.0]),
    chunk_size=st.sampled_from([None, 2]),
    sub_centers=st.sampled_from([1, 2]),
    filter_threshold=st.sampled_from([None, 0.3]),
    ignored=st.sampled_from([None, 0, slice(None)]),
    autocast=st.sampled_from([None, torch.float16, torch.bfloat16]),
)
def test_loss_and_gradients_are_finite(embeddings, centers, variant, scale, chunk_size, ignored, autocast, **settings):
    labels = torch.arange(len(embeddings)) % len(centers)
    if ignored is not None:
        labels[ignored] = -1
    embeddings = torch.tensor(embeddings).requires_grad_()
    centers = torch.tensor(centers).repeat_interleave(settings["sub_centers"], 0).requires_grad_()
    margin = build_margin(variant[0], **variant[1])
    with torch.autocast("cpu", autocast, enabled=autocast is not None):
        loss = margin_softmax_loss(embeddings, centers, labels, margin, scale, chunk_size, **settings)
    loss.backward()
    assert loss.isfinite() and embeddings.grad.isfinite().all() and centers.grad.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", MARGINS)
def test_autocast_changes_nothing(name, dtype):
    embeddings, centers, labels = problem(batch_size=8, num_classes=40, size=16, dtype=torch.float32)
    half = embeddings.detach().to(dtype).requires_grad_()
    want = margin_softmax_loss(half.float(), centers, labels, frozen(name, {}).float())
    (want_grad,) = torch.autograd.grad(want, half)
    for chunk_size in (None, 7):
        with torch.autocast("cpu", dtype):
            got = margin_softmax_loss(half, centers, labels, frozen(name, {}).float(), chunk_size=chunk_size)
        (grad,) = torch.autograd.grad(got, half)
        assert (got.dtype, grad.dtype) == (torch.float32, dtype)
        torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(grad, want_grad, rtol=2 * torch.finfo(dtype).eps, atol=1e-5)


@pytest.mark.parametrize("sub_centers", [1, 2])
@pytest.mark.parametrize("num_classes", [1, 4])
def test_statistics_are_of_the_cosines_to_the_nearest_own_centers(num_classes, sub_centers):
    margin = build_margin("curricularface", momentum=0.0)
    embeddings, centers, _ = problem(5, num_classes * sub_centers, dtype=torch.float32)
    labels = torch.tensor([0, 0, 3, 3, 2]) % num_classes
    with torch.autocast("cpu", torch.bfloat16):
        margin_softmax_loss(embeddings, centers, labels, margin, sub_centers=sub_centers)
    own = centers.view(num_classes, sub_centers, -1)[labels]
    cosine = F.cosine_similarity(embeddings[:, None], own, dim=2).amax(1)
    assert margin.t.item() == pytest.approx(cosine.mean().item(), abs=1e-6)


def test_adaface_keeps_its_spread_for_a_batch_of_one():
    margin = build_margin("adaface")
    margin_softmax_loss(torch.randn(1, 4) * 5, torch.randn(3, 4), torch.tensor([0]), margin)
    assert margin.norm_std == 100 and margin.norm_mean != 20


@pytest.mark.parametrize("label", [-2, 10])
def test_labels_out_of_range_are_named(label):
    embeddings, centers, labels = problem()
    labels[2] = label
    with pytest.raises(ValueError, match=rf"\[0, 10\).*found \[{label}\]"):
        margin_softmax_loss(embeddings, centers, labels)


def test_five_labels_out_of_range_are_enough():
    embeddings, centers, _ = problem()
    with pytest.raises(ValueError, match=r"found \[10, 11, 12, 13, 14\]\."):
        margin_softmax_loss(embeddings, centers, torch.arange(10, 16))


@pytest.mark.parametrize("chunk_size", [0, -1])
def test_chunks_of_no_class_are_refused(chunk_size):
    with pytest.raises(ValueError, match=f"chunk_size must be at least 1.* found {chunk_size}"):
        margin_softmax_loss(*problem(), chunk_size=chunk_size)
    with pytest.raises(ValueError, match=f"chunk_size must be at least 1.* found {chunk_size}"):
        MarginHead(4, 10, chunk_size=chunk_size)


def test_thousands_of_chunks_add_up_as_one():
    embeddings, centers, labels = problem(num_classes=10_000, dtype=torch.float32)
    want = margin_softmax_loss(embeddings.double(), centers.double(), labels, NoMargin(), scale=1.0)
    got = margin_softmax_loss(embeddings, centers, labels, NoMargin(), scale=1.0, chunk_size=1)
    assert abs(got.item() / want.item() - 1) < 1.5e-7, "adding up in float32 is off by 3.6e-7"


def test_all_samples_ignored_gives_zero():
    embeddings, centers, labels = problem()
    loss = margin_softmax_loss(embeddings, centers, torch.full_like(labels, -1), build_margin("adaface"))
    loss.backward()
    assert loss == 0 and embeddings.grad.abs().max() == 0


@pytest.mark.parametrize("clash", [{"beyond_pi": "clip"}, {"easy_margin": True}])
def test_straight_through_does_not_mix_with_other_margins(clash):
    with pytest.raises(ValueError, match="InsightFace"):
        ArcFaceMargin(straight_through=True, **clash)


def test_chunks_hold_no_batch_by_identities_matrix():
    """Neither pass may allocate a tensor as large as the logits, or a second copy of the centers."""
    embeddings, centers, labels = problem(batch_size=256, num_classes=4096, size=16, dtype=torch.float32)
    sizes = {}  # by address

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            result = func(*args, **(kwargs or {}))
            for x in result if isinstance(result, (tuple, list)) else (result,):
                if isinstance(x, torch.Tensor) and x.untyped_storage().data_ptr() != centers.data_ptr():
                    storage = x.untyped_storage()
                    sizes[storage.data_ptr()] = max(sizes.get(storage.data_ptr(), 0), storage.nbytes())
            return result

    with Watch():
        margin_softmax_loss(embeddings, centers, labels, chunk_size=128).backward()
    large = [size for size in sizes.values() if size > 256 * 128 * 4]
    assert large == [centers.numel() * 4], "the gradient alone"


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("chunk_size", [None, 16])
@pytest.mark.parametrize("name", MARGINS)
def test_a_gpu_gives_the_numbers_of_the_cpu(name, chunk_size):
    results = []
    for device in ("cpu", "cuda"):
        embeddings, centers, labels = (
            x.detach().to(device) for x in problem(batch_size=8, num_classes=60, size=16, dtype=torch.float32)
        )
        embeddings.requires_grad_(), centers.requires_grad_()
        margin = build_margin(name).to(device)
        scale = 1.0 if name == "linear" else 16.0  # its logits are no cosines: times 16, few digits would be left
        loss = margin_softmax_loss(embeddings, centers, labels, margin, scale=scale, chunk_size=chunk_size)
        results.append([x.cpu() for x in (loss, *torch.autograd.grad(loss, (embeddings, centers)))])
    for on_cpu, on_gpu in zip(*results, strict=True):
        torch.testing.assert_close(on_gpu, on_cpu, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("found", ["nothing", "CC", "gcc", "clang"])
@pytest.mark.parametrize("triton", [True, False])
def test_chunks_are_compiled_for_cuda_where_triton_and_a_c_compiler_are(monkeypatch, found, triton):
    monkeypatch.delenv("CC", raising=False)
    if found == "CC":
        monkeypatch.setenv("CC", "cc")
    monkeypatch.setattr("shutil.which", lambda name: name if name == found else None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: name if triton else None)
    monkeypatch.setattr("torch.compile", lambda function, dynamic: ("compiled", dynamic))
    fused = hf_face.heads.margin_softmax._fused.__wrapped__  # without its cache
    assert fused(torch.exp, "cuda") == (("compiled", True) if triton and found != "nothing" else torch.exp)
    assert fused(torch.exp, "cpu") is torch.exp


def test_vectors_that_are_not_longer_than_eps_have_no_direction():
    direction, norm = unit_and_norm(torch.tensor([[0.25], [0.5], [2.0]]), eps=0.5)
    assert (direction.flatten().tolist(), norm.flatten().tolist()) == ([0, 0, 1], [0.25, 0.5, 2])


def test_only_negatives_above_the_threshold_are_filtered():
    rule = hf_face.heads.margin_softmax._negative_rule(NoMargin(), torch.zeros(1), 0.5)
    assert rule(torch.tensor([0.25, 0.5, 0.75])).tolist() == [0.25, 0.5, 0]


def test_the_loss_of_one_sample_is_not_divided():
    embeddings, centers, labels = problem()
    each = [margin_softmax_loss(embeddings[i : i + 1], centers, labels[i : i + 1]) for i in range(len(labels))]
    torch.testing.assert_close(torch.stack(each).mean(), margin_softmax_loss(embeddings, centers, labels))


@pytest.mark.slow  # the compiler of C++ takes a minute
@pytest.mark.parametrize("name, kwargs", [("arcface", {}), ("curricularface", {"momentum": 0.0})])
def test_fused_chunks_match_plain_ones(name, kwargs, monkeypatch):
    monkeypatch.setattr(hf_face.heads.margin_softmax, "_can_compile", lambda: True)
    fused = hf_face.heads.margin_softmax._fused
    results = []
    for device_type in ("cpu", "cuda"):
        monkeypatch.setattr(
            hf_face.heads.margin_softmax,
            "_fused",
            lambda function, _, device_type=device_type: fused(function, device_type),
        )
        margin, steps = build_margin(name, **kwargs), []
        for step in range(3):  # what changes from step to step must not be compiled in
            embeddings, centers, labels = problem(8 + step, num_classes=60, size=16, dtype=torch.float32, seed=step)
            loss = margin_softmax_loss(embeddings, centers, labels, margin, chunk_size=16)
            steps += [loss, *torch.autograd.grad(loss, (embeddings, centers))]
        results.append(steps)
    for plain, compiled in zip(*results, strict=True):
        torch.testing.assert_close(compiled, plain, rtol=1e-4, atol=1e-6)
