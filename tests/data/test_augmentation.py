"""Compares every batched operation to torchvision's (or OpenCV's) on single images."""

import re
import textwrap
from itertools import permutations

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.data import DataLoader
from torchvision.transforms import InterpolationMode, v2
from torchvision.transforms.v2 import functional as F

from hf_face.data import FaceCollator, FaceDataset, build_augmentation
from hf_face.data.augmentation import (
    RECIPES,
    ColorJitter,
    LowResolution,
    PerImage,
    RandomAffine,
    RandomChoice,
    RandomErasing,
    ZeroPaddedCrop,
    geometric,
    photometric,
)
from hf_face.registry import augmentations


def each(function, faces: Tensor, strengths: Tensor) -> Tensor:
    return torch.stack([function(face, value.item()) for face, value in zip(faces, strengths, strict=True)])


def largest_difference(images: Tensor, expected: Tensor) -> int:
    return (images.int() - expected.int()).abs().max().item()


FACTORS = torch.linspace(0.1, 1.9, 8)


@pytest.mark.parametrize("name", ["adjust_brightness", "adjust_contrast", "adjust_saturation", "adjust_sharpness"])
def test_blends_agree_with_torchvision(faces, name):
    expected = each(getattr(F, name), faces, FACTORS)
    images = getattr(photometric, name)(faces, FACTORS)
    assert (
        largest_difference(images, expected) <= 1
    )  # values that are integers up to float32 rounding may be truncated either way
    assert (images != expected).float().mean() < 0.02


def test_hue_agrees_with_torchvision(faces):
    shifts = torch.linspace(-0.5, 0.5, 8)
    assert largest_difference(photometric.adjust_hue(faces, shifts), each(F.adjust_hue, faces, shifts)) <= 1


@pytest.mark.parametrize("thirds", [-1, 0, 1])
def test_a_third_of_the_color_wheel_exchanges_the_channels(thirds):
    levels = torch.tensor([0, 1, 2, 3, 100, 101, 254, 255], dtype=torch.uint8)
    colors = torch.cartesian_prod(levels, levels, levels).T[None, :, :, None]  # (1, 3, 512, 1)
    assert torch.equal(photometric.adjust_hue(colors, torch.tensor([thirds / 3])), colors.roll(thirds, dims=1))


def test_black_stays_black_and_white_is_the_brightest():
    pixels = torch.tensor([0, 100, 200, 255], dtype=torch.uint8).expand(2, 3, 1, 4)
    brighter, same = photometric.adjust_brightness(pixels, torch.tensor([2.0, 1.0]))
    assert brighter[0].tolist() == [[0, 200, 255, 255]] and torch.equal(same, pixels[1])


def test_posterize_and_solarize_agree_with_torchvision(faces):
    bits = torch.arange(1, 9)
    assert torch.equal(photometric.posterize(faces, bits.float()), each(F.posterize, faces, bits))
    thresholds = torch.arange(20.0, 180.0, 20.0)
    assert torch.equal(photometric.solarize(faces, thresholds), each(F.solarize, faces, thresholds))


def affine(face: Tensor, angle: float = 0.0, translate=(0, 0), shear=(0.0, 0.0), center=None) -> Tensor:
    return F.affine(face, angle, list(translate), 1.0, list(shear), InterpolationMode.NEAREST, center=center)


@pytest.mark.parametrize(
    ("ours", "theirs", "strengths"),
    [
        (
            lambda faces, x: geometric.move(faces, x=x),
            lambda face, x: affine(face, translate=(x, 0)),
            range(-40, 40, 10),
        ),
        (
            lambda faces, y: geometric.move(faces, y=y),
            lambda face, y: affine(face, translate=(0, y)),
            range(-40, 40, 10),
        ),
        (geometric.move, F.rotate, [-30, -17, -5, 0, 1, 8, 20, 30]),
        (
            lambda faces, degrees: geometric.move(faces, degrees, x=17, y=-9),
            lambda face, degrees: affine(face, -degrees, translate=(17, -9)),  # theirs turns clockwise
            [-30, -17, -5, 0, 1, 8, 20, 30],
        ),
        (
            geometric.shear_x,
            lambda face, slope: affine(face, shear=(torch.tensor(slope).atan().rad2deg().item(), 0.0), center=[0, 0]),
            [-0.297, -0.211, -0.053, 0, 0.0117, 0.103, 0.197, 0.289],
        ),
        (
            geometric.shear_y,
            lambda face, slope: affine(face, shear=(0.0, torch.tensor(slope).atan().rad2deg().item()), center=[0, 0]),
            [-0.297, -0.211, -0.053, 0, 0.0117, 0.103, 0.197, 0.289],
        ),
    ],
    ids=["translate x", "translate y", "rotate", "rotate and translate", "shear x", "shear y"],
)
def test_geometry_agrees_with_torchvision(faces, ours, theirs, strengths):
    strengths = torch.tensor(list(strengths), dtype=torch.float32)
    wide = faces[:, :, :84]
    same = ours(wide, strengths) == each(theirs, wide, strengths)
    assert same.float().mean() > 0.998  # where two pixels are equally near, rounding may choose either


def test_resized_crop_enlarges_the_box(faces):
    boxes = torch.tensor([[0, 0, 112, 112], [0, 0, 56, 56], [56, 28, 56, 56]])
    whole, corner, other = geometric.resized_crop(faces[:3], boxes)
    assert torch.equal(whole, faces[0])
    assert torch.equal(corner, faces[1, :, :56, :56].repeat_interleave(2, 1).repeat_interleave(2, 2))
    assert torch.equal(other, faces[2, :, 56:, 28:84].repeat_interleave(2, 1).repeat_interleave(2, 2))


def test_a_box_is_inside_from_its_first_to_its_last_pixel():
    boxes = torch.tensor([[1, 2, 2, 3], [0, 0, 4, 6], [0, 0, 0, 0]])
    expected = torch.zeros(3, 1, 4, 6, dtype=torch.bool)
    expected[0, :, 1:3, 2:5] = expected[1] = True
    assert torch.equal(geometric.inside(boxes, torch.zeros(3, 3, 4, 6)), expected)


def test_boxes_of_one_pixel_are_anywhere_and_boxes_of_all_pixels_fit():
    images, square = torch.zeros(500, 3, 3, 3), (1.0, 1.0)
    pixels = geometric.random_boxes(images, 1 / 9, 1 / 9, square, torch.Generator().manual_seed(0))
    assert {tuple(box) for box in pixels.tolist()} == {(top, left, 1, 1) for top in range(3) for left in range(3)}
    assert geometric.random_boxes(images, 1.0, 1.0, square).unique(dim=0).tolist() == [[0, 0, 3, 3]]


def test_ten_boxes_are_drawn_until_one_fits():
    # of the image's area and 1 to 1.105 times as wide as high, a tenth of which are at most 100.5 pixels wide
    images = torch.zeros(1, 3, 100, 100).expand(20_000, -1, -1, -1)
    boxes = geometric.random_boxes(images, 1.0, 1.0, (1.0, 1.005**20), torch.Generator().manual_seed(0))
    assert boxes.any(1).float().mean() == pytest.approx(1 - 0.9**10, abs=0.01)


def test_random_boxes_are_distributed_as_torchvision_draws_them(faces):
    images = faces[:1].expand(4000, -1, -1, -1)
    boxes = geometric.random_crops(images, 0.2, torch.Generator().manual_seed(0)).float()
    torch.manual_seed(0)
    crop = v2.RandomResizedCrop(112, scale=(0.2, 1.0))
    drawn = [crop.make_params([faces[0]]) for _ in range(4000)]
    expected = torch.tensor([[p["top"], p["left"], p["height"], p["width"]] for p in drawn], dtype=torch.float32)
    assert boxes[:, 0].add(boxes[:, 2]).max() <= 112
    assert boxes[:, 1].add(boxes[:, 3]).max() <= 112
    torch.testing.assert_close(boxes.mean(0), expected.mean(0), rtol=0.03, atol=0.5)
    torch.testing.assert_close(boxes.std(0), expected.std(0), rtol=0.05, atol=0.5)


def test_boxes_that_cannot_fit_are_empty_and_crops_fall_back_to_the_whole_image(faces):
    assert not geometric.random_boxes(faces, 0.9, 1.0, (20.0, 30.0)).any()
    wide = faces[:, :, :20]
    assert (geometric.random_crops(wide, 1.0) == torch.tensor([0, 0, 20, 112])).all()


def test_zero_padded_crop_keeps_the_box_in_its_place(faces):
    for before, after in zip(
        faces, ZeroPaddedCrop(p=1.0)(faces.clone(), torch.Generator().manual_seed(1)), strict=True
    ):
        kept = (after > 0).any(0)
        rows, columns = kept.any(1).nonzero(), kept.any(0).nonzero()
        box = (slice(None), slice(rows.min(), rows.max() + 1), slice(columns.min(), columns.max() + 1))
        assert torch.equal(after[box], before[box])
        assert after.sum() == after[box].sum()
        assert 0.15 < kept.float().mean() <= 1


def test_zero_padded_crops_are_of_a_fifth_to_the_whole_area():
    out = ZeroPaddedCrop(p=1.0)(torch.ones(1000, 3, 40, 40, dtype=torch.uint8), torch.Generator().manual_seed(0))
    area = out[:, 0].float().mean((1, 2))
    assert 0.19 < area.min() < 0.22 and 0.5 < area.mean() < 0.65
    assert (area == 1).float().mean() < 0.02


def test_random_erasing_is_that_of_torchvision():
    ours, theirs = RandomErasing(), v2.RandomErasing()
    assert [ours.p, (ours.min_area, ours.max_area), ours.ratio] == [theirs.p, theirs.scale, theirs.ratio]
    out = RandomErasing(p=1.0)(torch.ones(1000, 3, 40, 40, dtype=torch.uint8), torch.Generator().manual_seed(0))
    erased = (out == 0).all(1).float().mean((1, 2))
    assert 0.01 < erased.min() < 0.03 and 0.31 < erased.max() < 0.35  # rounded to whole pixels
    assert erased.mean() == pytest.approx(0.175, abs=0.01)


def test_an_augmentation_without_strength_changes_nothing(faces):
    for augmentation in (RandomAffine(), ColorJitter()):
        assert torch.equal(augmentation(faces.clone()), faces)


def test_color_jitter_makes_each_adjustment_once_in_random_order():
    jitter = ColorJitter()
    jitter.adjustments = [(lambda images, _, digit=digit: 4 * images + digit, 0, 1) for digit in (1, 2, 3)]
    out = jitter(torch.zeros(100, 3, 1, 1, dtype=torch.uint8), torch.Generator().manual_seed(0))
    assert set(out.flatten().tolist()) == {4 * (4 * a + b) + c for a, b, c in permutations((1, 2, 3))}


@pytest.mark.parametrize("spec", [*RECIPES, ["random_erasing"], ["flip", {"random_affine": {"degrees": 10}}]])
def test_recipes_repeat_with_the_seed_and_leave_the_input_alone(faces, spec):
    augment = build_augmentation(spec, image_size=112)
    images = faces.repeat(8, 1, 1, 1)
    untouched = images.clone()
    first, again, other = (augment(images, torch.Generator().manual_seed(seed)) for seed in (3, 3, 4))
    assert torch.equal(images, untouched)
    assert first.shape == images.shape
    assert first.dtype == torch.uint8
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_without_a_generator_the_draws_are_the_global_ones(faces):
    augment = build_augmentation("froundation", image_size=112)
    state = torch.get_rng_state()
    first = augment(faces)
    torch.set_rng_state(state)
    assert torch.equal(first, augment(faces))


def test_images_of_one_batch_get_different_draws(faces):
    images = faces[:1].repeat(64, 1, 1, 1)
    out = build_augmentation("timm_face", image_size=112)(images, torch.Generator().manual_seed(0))
    assert len({image.numpy().tobytes() for image in out}) > 60


def test_probability_is_per_image(faces):
    images = faces[:1, :, 32:64, 32:64].repeat(1000, 1, 1, 1)
    out = build_augmentation([{"flip": {"p": 0.3}}], image_size=32)(images, torch.Generator().manual_seed(0))
    flipped = (out == images.flip(-1)).flatten(1).all(1)
    assert 250 < flipped.sum() < 350
    assert torch.equal(out[~flipped], images[~flipped])


def test_random_choice_gives_each_image_one_of_the_choices(faces):
    spec = [{"random_choice": [{"flip": {"p": 1.0}}, {"low_resolution": {"p": 1.0}}]}]
    out = build_augmentation(spec, image_size=112)(faces[:1].repeat(200, 1, 1, 1), torch.Generator().manual_seed(0))
    flipped = (out == faces[:1].flip(-1)).flatten(1).all(1)
    assert 70 < flipped.sum() < 130
    assert LowResolution(p=1.0)(faces[:1].clone()).flip(-1).ne(faces[:1]).any()


def test_random_choice_makes_one_of_three_choices():
    class Add(torch.nn.Module):
        def __init__(self, number: int):
            super().__init__()
            self.number = number

        def forward(self, images, generator):
            return images + self.number

    choice = RandomChoice(["flip"], image_size=1)
    choice.choices = torch.nn.ModuleList([Add(1), Add(10), Add(100)])
    assert set(choice(torch.zeros(100, 3, 1, 1, dtype=torch.uint8)).flatten().tolist()) == {1, 10, 100}


def test_the_adaface_recipe_leaves_about_half_of_the_images_unaugmented(faces):
    eyes = faces[:1, :, 32:64, 32:64]
    out = build_augmentation("adaface", image_size=32)(eyes.repeat(1000, 1, 1, 1), torch.Generator().manual_seed(0))
    plain = (out == eyes).flatten(1).all(1) | (out == eyes.flip(-1)).flatten(1).all(1)
    assert 0.46 < plain.float().mean() < 0.57  # 0.8 ** 3 = 0.512


def test_published_sets_have_the_strengths_of_their_projects():
    flip, choice = build_augmentation("timm_face", image_size=112).steps
    jitter, affine = choice.choices
    assert flip.p == 0.5 and (affine.degrees, affine.translate, affine.p) == (0, 0.1, 1)
    assert jitter.p == 1 and [adjustment[1:] for adjustment in jitter.adjustments] == [
        *[(0.9, 1.1)] * 3,
        (-0.1, 0.1),  # the hue
    ]
    crop, low_resolution, jitter, flip = build_augmentation("adaface", image_size=112).steps
    assert [step.p for step in (crop, low_resolution, jitter, flip)] == [0.2, 0.2, 0.2, 0.5]
    assert (crop.min_area, low_resolution.min_side) == (0.2, 0.2)
    assert [adjustment[1:] for adjustment in jitter.adjustments] == [(0.5, 1.5)] * 3
    rand_augment, flip = build_augmentation("froundation", image_size=112).steps
    assert (rand_augment.num_ops, rand_augment.magnitude, flip.p) == (4, 16, 0.5)


def test_factors_of_color_jitter_are_not_negative():
    (adjustment,) = ColorJitter(brightness=1.5).adjustments
    assert adjustment[1:] == (0, 2.5)


@pytest.mark.parametrize("name", ["flip", "random_erasing"])
def test_what_has_probability_0_is_never_done(monkeypatch, faces, name):
    monkeypatch.setattr(torch, "rand", lambda shape, **_: torch.zeros(shape))  # the lowest draw
    assert torch.equal(build_augmentation([{name: {"p": 0}}], image_size=112)(faces), faces)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("flap", "No augmentation or published set is called 'flap'. Available: adaface, color_jitter, flip"),
        (["flip", "flap"], "No augmentation is called 'flap'. Did you mean 'flip'?"),
        ([{"random_choice": ["flip", "flap"]}], "No augmentation is called 'flap'"),
        (
            [{"flip": {"probability": 0.3}}],
            "'flip': .* unexpected .* 'probability'; its options are: p",
        ),
        ([{"flip": {}, "rand_augment": {}}], "Expected the augmentation as a name or as .*, found .*rand_augment"),
        ([{"random_choice": ["flip"], "flip": {}}], "Expected the augmentation as a name"),
        ([{"rand_augment": {"operations": ["Shear"]}}], "unknown RandAugment operations.*Shear"),
        ([{"rand_augment": {"magnitude": 31}}], "magnitude must be 1 to 30 with 31 bins, found 31"),
        ([{"rand_augment": {"magnitude": 0}}], "magnitude must be 1 to 30 with 31 bins, found 0"),
        ([{"flip": {"p": 1.1}}], "p must be from 0 to 1, found 1.1"),
        ([{"random_erasing": {"p": -0.1}}], "p must be from 0 to 1, found -0.1"),
    ],
)
def test_a_wrong_recipe_is_named(spec, message):
    with pytest.raises(ValueError, match=message):
        build_augmentation(spec, image_size=112)


@pytest.fixture
def own_augmentations(monkeypatch):
    """Removes what a test registers."""
    monkeypatch.setattr(augmentations, "_entries", dict(augmentations))


def test_the_example_is_an_augmentation(own_augmentations, faces):
    """The docstring's example in a user's module: in a list, alone, and as one of several choices."""
    (example,) = re.findall(r"```python\n(.*?)```", PerImage.__doc__, flags=re.DOTALL)
    exec(textwrap.dedent(example), {"__name__": "my_augmentations"})
    blurred = F.gaussian_blur(faces, kernel_size=5, sigma=2.0)
    always = {"blur": {"sigma": 2.0, "p": 1.0}}
    for spec in ([always], [{"random_choice": [always, always]}]):
        assert torch.equal(build_augmentation(spec, image_size=112)(faces), blurred)
    assert build_augmentation("blur", image_size=112).steps[0].sigma == 1.0


def test_the_size_of_the_crops_is_told_to_those_that_ask(own_augmentations):
    @augmentations.register("border")
    class Border(torch.nn.Module):
        def __init__(self, image_size: int, width: int = 1):
            super().__init__()
            self.inside = slice(width, image_size - width)

        def forward(self, images, generator=None):
            framed = torch.zeros_like(images)
            framed[..., self.inside, self.inside] = images[..., self.inside, self.inside]
            return framed

    white = torch.full((2, 3, 8, 8), 255, dtype=torch.uint8)
    for spec in ([{"border": {"width": 2}}], [{"random_choice": [{"border": {"width": 2}}]}]):
        assert build_augmentation(spec, image_size=8)(white).eq(255).sum() == 2 * 3 * 4 * 4


def test_workers_draw_nothing_so_their_number_changes_nothing(orl):
    augment = build_augmentation("froundation", image_size=112)

    def augmented(num_workers: int) -> Tensor:
        data, generator = FaceDataset(orl.select(range(16))), torch.Generator().manual_seed(0)
        loader = DataLoader(data, batch_size=8, num_workers=num_workers, collate_fn=FaceCollator(112))
        return torch.cat([augment(batch["pixel_values"], generator) for batch in loader])

    assert torch.equal(augmented(num_workers=0), augmented(num_workers=2))


def test_an_affine_map_is_drawn_from_the_whole_range_and_not_beyond(monkeypatch):
    drawn = []
    monkeypatch.setattr(geometric, "move", lambda images, *moves: drawn.append(torch.stack(moves)) or images)
    geometric.RandomAffine(degrees=10, translate=0.25)(torch.zeros(2000, 3, 40, 80, dtype=torch.uint8))
    degrees, x, y = drawn[0]
    for values, most in ((degrees, 10), (x, 0.25 * 80), (y, 0.25 * 40)):
        assert -most <= values.min() < -0.98 * most and 0.98 * most < values.max() <= most
    assert torch.equal(x, x.round()) and torch.equal(y, y.round())


class Copies(TorchDispatchMode):
    """Notes of each copy from the CPU to another device whether it waits for the device."""

    def __init__(self):
        super().__init__()
        self.waiting: list[bool] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func is torch.ops.aten._to_copy.default and args[0].device != kwargs.get("device", args[0].device):
            self.waiting.append(not kwargs.get("non_blocking"))
        return func(*args, **kwargs)


@pytest.mark.parametrize("name", sorted(augmentations))
def test_no_augmentation_waits_for_the_device(name):
    options = {"random_choice": {"choices": ["flip"]}, "rand_augment": {}}.get(name, {"p": 1.0})
    augment = build_augmentation([{name: options}], image_size=32)
    with Copies() as copies:
        augment(torch.zeros(8, 3, 32, 32, dtype=torch.uint8, device="meta"), torch.Generator().manual_seed(0))
    assert copies.waiting and not any(copies.waiting)
