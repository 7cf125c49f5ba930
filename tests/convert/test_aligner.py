"""CVLface's differentiable face aligner."""

import pytest
import torch
from parity import difference
from torch.nn.functional import interpolate
from transformers import AutoImageProcessor, AutoModel

from hf_face import FaceAlignerModel, convert_checkpoint, export_checkpoint
from hf_face.convert import convert_to_folder
from hf_face.models.modeling_face_aligner import crop_to_image

TOLERANCES = {"aligned": 1e-3}  # it magnifies rounding; all others are compared within 1e-4


@pytest.fixture(scope="module")
def reference(load_reference):
    return load_reference("cvlface_dfa_mobilenet")


@pytest.fixture(scope="module")
def aligner(reference) -> FaceAlignerModel:
    return convert_checkpoint(dict(reference.state_dict))[0]


def smooth_images(fill, size: int) -> torch.Tensor:
    return interpolate(fill.images(2, size // 8), size=size, mode="bilinear", align_corners=True)


@torch.inference_mode()
def test_answers_as_the_reference(aligner, reference, fill):
    output = aligner(smooth_images(fill, 160))
    # The reference divides its box, a fraction of the image, by the image's size.
    found = {**output, "output": output.prediction, "bbox": output.bbox / 160}
    names = ("aligned", "landmarks", "aligned_landmarks", "score", "theta", "bbox", "output")
    for name in (*names, "anchor_bbox", "anchor_probability", "anchor_landmarks"):
        of_largest = difference(found[name], reference.arrays[name])
        print(f"{'cvlface_aligner':18} {name:26} largest relative difference {of_largest:.1e}")
        assert of_largest <= TOLERANCES.get(name, 1e-4), name


@torch.inference_mode()
def test_other_sizes_are_resized(aligner, reference, fill):
    output = aligner(smooth_images(fill, 112))
    for name, found in {"output": output.prediction, "landmarks": output.landmarks, "theta": output.theta}.items():
        assert difference(found, reference.arrays[f"{name}_of_112"]) <= 1e-4, name


@torch.inference_mode()
@pytest.mark.parametrize(("height", "width"), [(160, 117), (117, 160)])
def test_landmarks_of_an_image_that_is_not_square(aligner, fill, height, width):
    """Black bars make it square; the landmarks and the box are fractions of the image itself."""
    square = smooth_images(fill, 160)
    left, top = 160 // 2 - (width + 1) // 2, 160 // 2 - (height + 1) // 2  # the odd bar is on the right or below
    part = square[:, :, top : top + height, left : left + width]
    barred = torch.full_like(square, -1.0)
    barred[:, :, top : top + height, left : left + width] = part
    expected, found = aligner(barred), aligner(part)
    assert torch.allclose(found.aligned, expected.aligned, atol=1e-5)
    size, origin = torch.tensor([width, height]), torch.tensor([left, top])
    assert torch.allclose(found.landmarks * size, expected.landmarks * 160 - origin, atol=1e-3)
    corners, in_square = (output.bbox.view(2, 2, 2) for output in (found, expected))
    assert torch.allclose(corners * size, in_square * 160 - origin, atol=1e-3)
    assert not torch.allclose(aligner(square).landmarks, found.landmarks)


def test_crops_of_any_size_show_the_same():
    landmarks = torch.tensor([[[60.0, 70.0], [95.0, 66.0], [80.0, 90.0], [66.0, 108.0], [92.0, 106.0]]])
    expected = crop_to_image(landmarks, image_size=160, output_size=112)
    torch.testing.assert_close(crop_to_image(landmarks, image_size=160, output_size=56), expected)


def test_gradients_reach_the_image_from_the_crop_and_the_landmarks(aligner, fill):
    images = smooth_images(fill, 160).requires_grad_()
    (from_crop,) = torch.autograd.grad(aligner(images).aligned.square().mean(), images)
    (from_landmarks,) = torch.autograd.grad(aligner(images).landmarks.square().mean(), images)
    assert from_crop.abs().sum() > 0 and from_landmarks.abs().sum() > 0


def test_detects_in_pixels(aligner, fill):
    """In tensors and in arrays, of any sizes."""
    square = ((smooth_images(fill, 160)[0] + 1) * 127.5).round().to(torch.uint8)
    wide = square[:, 20:140]
    found = aligner.detect([square, wide.permute(1, 2, 0).numpy()])
    for photograph, (boxes, landmarks, scores) in zip((square, wide), found, strict=True):
        output = aligner(photograph[None] / 127.5 - 1)
        size = torch.tensor([160, photograph.shape[1]])
        assert boxes.shape == (1, 4) and torch.allclose(boxes, output.bbox * size.repeat(2), atol=1e-3)
        assert landmarks.shape == (1, 5, 2) and torch.allclose(landmarks, output.landmarks * size, atol=1e-3)
        assert scores.shape == (1,) and torch.allclose(scores, output.score[0])


@torch.inference_mode()
def test_a_saved_folder_answers_the_same(reference, tmp_path, fill):
    model, _ = convert_to_folder(dict(reference.state_dict), tmp_path)
    loaded, image_processor = AutoModel.from_pretrained(tmp_path), AutoImageProcessor.from_pretrained(tmp_path)
    found, expected = loaded(smooth_images(fill, 160)), model(smooth_images(fill, 160))
    assert torch.allclose(found.landmarks, expected.landmarks, atol=1e-6)
    photograph = torch.zeros(3, 200, 150, dtype=torch.uint8)
    assert image_processor(photograph, return_tensors="pt").pixel_values.shape == (1, 3, 200, 150)


def test_round_trip_is_bit_exact(aligner, reference):
    exported = export_checkpoint(aligner, "cvlface_aligner")
    assert exported.keys() == reference.state_dict.keys()
    assert all(torch.equal(exported[name], tensor) for name, tensor in reference.state_dict.items())
