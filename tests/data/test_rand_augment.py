"""RandAugment on whole batches, compared to torchvision's on single images."""

import pytest
import torch
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

from hf_face.data.augmentation import RandAugment
from hf_face.data.augmentation.rand_augment import OPERATIONS, SIGNED

RAND_AUGMENT = v2.RandAugment()


@pytest.mark.parametrize("name", RAND_AUGMENT._AUGMENTATION_SPACE)
@pytest.mark.parametrize("level", [-17, 17])
def test_rand_augment_operations_are_those_of_torchvision(faces, name, level):
    magnitudes, signed = RAND_AUGMENT._AUGMENTATION_SPACE[name]
    assert (name in SIGNED) == signed
    expected = magnitudes(31, 112, 112)
    ours = RandAugment(112).strengths[name]
    torch.testing.assert_close(
        ours, torch.zeros(31) if expected is None else expected * (255.0 if name == "Solarize" else 1.0)
    )
    magnitude = 0.0 if expected is None else expected[abs(level)].item() * (-1 if signed and level < 0 else 1)
    strengths = ours[abs(level)].expand(8) * (-1 if signed and level < 0 else 1)
    theirs = [RAND_AUGMENT._apply_image_or_video_transform(face, name, magnitude, "nearest", {}) for face in faces]
    difference = (OPERATIONS[name](faces, strengths).int() - torch.stack(theirs).int()).abs()
    assert (difference > 1).float().mean() < 0.002  # where two pixels are equally near, rounding may choose either


def test_the_additions_of_froundation_to_rand_augment(faces):
    gray = OPERATIONS["Grayscale"](faces, torch.zeros(8))
    assert torch.equal(gray, F.rgb_to_grayscale(faces).expand(-1, 3, -1, -1))
    strengths = RandAugment(112).strengths["ResizedCrop"]
    assert [strengths[level].item() for level in (0, 15, 30)] == pytest.approx([0.1, 0.5, 0.9])


@pytest.mark.parametrize(("strength", "whole"), [(0.1, 0.2), (0.9, 0.01)])
def test_a_resized_crop_leaves_out_as_much_as_its_strength(strength, whole):
    column = torch.arange(50, dtype=torch.uint8).expand(50, 50)
    images = torch.stack([column, column.T, column]).expand(300, -1, -1, -1)
    out = RandAugment(50)._operation("ResizedCrop", torch.Generator().manual_seed(0))(
        images, torch.full((300,), strength)
    )
    width, height, _ = (out.amax((2, 3)) - out.amin((2, 3)) + 1.0).T
    area = width * height / 50**2
    assert area.min() == pytest.approx(1 - strength, abs=0.03)
    assert (area == 1).float().mean() < whole


@pytest.mark.parametrize("name", OPERATIONS)
def test_each_rand_augment_operation_changes_images(faces, name):
    out = RandAugment(112, num_ops=1, operations=[name])(faces.repeat(8, 1, 1, 1), torch.Generator().manual_seed(0))
    changed = (out != faces.repeat(8, 1, 1, 1)).flatten(1).any(1).float().mean()
    assert changed == 0 if name == "Identity" else changed > 0.25  # dark faces have little to solarize


def test_rand_augment_draws_every_strength_up_to_the_magnitude(faces):
    images = torch.full((2000, 3, 4, 4), 100, dtype=torch.uint8)
    out = RandAugment(112, num_ops=1, magnitude=16, operations=["Brightness"])(images)
    # bins 1 ... 16 of 0 ... 0.9 in 30 steps, darker or brighter
    expected = {100 + sign * 3 * level for level in range(1, 17) for sign in (-1, 1)}
    drawn = set(out[:, 0, 0, 0].tolist())
    assert len(drawn) == len(expected)
    assert drawn <= {value + rounding for value in expected for rounding in (-1, 0)}


@pytest.mark.parametrize("magnitude", [1, 30])
def test_every_bin_but_the_weakest_may_be_the_highest_drawn(magnitude):
    assert RandAugment(112, magnitude=magnitude).magnitude == magnitude
