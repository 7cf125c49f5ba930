"""Shrinking and enlarging whole batches, compared to OpenCV on single images."""

import numpy as np
import pytest
import torch

from hf_face.data import build_augmentation
from hf_face.data.augmentation import LowResolution
from hf_face.data.augmentation.low_resolution import FILTERS, resample, resize_weights


@pytest.fixture(scope="module")
def opencv():
    cv2 = pytest.importorskip("cv2")
    names = {"nearest": "NEAREST", "linear": "LINEAR", "area": "AREA", "cubic": "CUBIC", "lanczos4": "LANCZOS4"}
    flags = [getattr(cv2, f"INTER_{names[name]}") for name in FILTERS]
    return lambda pixels, size, index: cv2.resize(pixels, size, interpolation=flags[index])


@pytest.mark.parametrize("index", range(len(FILTERS)), ids=FILTERS)
def test_filters_are_those_of_opencv(opencv, index):
    sides = torch.tensor([22, 23, 37, 56, 64, 80, 111, 112])
    full, filters = torch.full_like(sides, 112), torch.full_like(sides, index)
    shrink = resize_weights(full, sides, filters, size=112)
    enlarge = resize_weights(sides, full, filters, size=112)
    for i, side in enumerate(sides.tolist()):
        # resizing the rows of the identity matrix gives the matrix of the filter's weights
        expected = torch.zeros(2, 112, 112)
        expected[0, :side] = torch.from_numpy(opencv(np.eye(112, dtype=np.float32), (112, side), index))
        expected[1, :, :side] = torch.from_numpy(opencv(np.eye(side, dtype=np.float32), (side, 112), index))
        torch.testing.assert_close(torch.stack([shrink[i], enlarge[i]]), expected, rtol=0, atol=5e-5)


def test_low_resolution_is_shrinking_and_enlarging(opencv, faces):
    sides, filters = torch.tensor([22, 37, 50, 56, 64, 80, 111, 112]), torch.arange(8) % len(FILTERS)
    images = resample(faces, sides, filters, filters.flip(0))
    for i, (face, side) in enumerate(zip(faces, sides.tolist(), strict=True)):
        small = opencv(face.permute(1, 2, 0).numpy(), (side, side), filters[i])
        expected = torch.from_numpy(opencv(small, (112, 112), filters.flip(0)[i])).permute(2, 0, 1)
        assert (images[i].int() - expected.int()).abs().max() <= 2  # OpenCV rounds weights of uint8 images to 11 bits


@pytest.mark.parametrize("min_side", [0, 0.14, 1.5])
def test_low_resolution_shrinks_sevenfold_at_most(min_side):
    with pytest.raises(ValueError, match=f"min_side must be from 1/7 to 1, found {min_side}"):
        build_augmentation([{"low_resolution": {"min_side": min_side}}], image_size=112)


@pytest.mark.parametrize("size", [1, 3, 6, 20, 100])
def test_low_resolution_at_its_limit_keeps_an_even_image(size):
    images = torch.tensor([0, 200], dtype=torch.uint8).repeat(100).view(-1, 1, 1, 1).repeat(1, 3, size, size)
    assert torch.equal(LowResolution(min_side=1 / 7, p=1.0)(images.clone(), torch.Generator().manual_seed(0)), images)


def test_low_resolution_of_the_whole_side_changes_nothing(faces):
    assert torch.equal(LowResolution(min_side=1.0, p=1.0)(faces.clone()), faces)


@pytest.mark.parametrize("name", ["cubic", "lanczos4"])
def test_filters_that_overshoot_stay_black_and_white(name):
    edge = torch.zeros(1, 3, 64, 64, dtype=torch.uint8)
    edge[..., 32:] = 255
    index = torch.tensor([list(FILTERS).index(name)])
    out = resample(edge, torch.tensor([24]), index, index)
    assert out[..., :28].max() < 128 < out[..., 36:].min()
