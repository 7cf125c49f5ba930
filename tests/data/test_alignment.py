import numpy as np
import pytest
import torch

from hf_face.data.alignment import ARCFACE_LANDMARKS, align_faces, similarity_transforms
from hf_face.models.alignment import _cut, _cut_from_batch, _windows
from hf_face.models.modeling_face_aligner import LANDMARKS


def turned(degrees: float, scale: float, shift) -> np.ndarray:
    """The reference points in a rotated, scaled and shifted image."""
    radians = np.deg2rad(degrees)
    rotation = np.array([[np.cos(radians), -np.sin(radians)], [np.sin(radians), np.cos(radians)]])
    return scale * ARCFACE_LANDMARKS @ rotation.T + shift


def test_reference_points_are_those_of_the_published_aligner():
    np.testing.assert_allclose(ARCFACE_LANDMARKS, LANDMARKS, atol=1e-4)


def test_transform_brings_turned_landmarks_back():
    landmarks = np.stack([turned(0, 1, 0), turned(30, 1.7, (12, -5)), turned(-170, 0.4, (300, 80))])
    matrices = similarity_transforms(landmarks).numpy()
    np.testing.assert_allclose(matrices[0], [[1, 0, 0], [0, 1, 0]], atol=1e-12)
    for matrix, points in zip(matrices, landmarks, strict=True):
        np.testing.assert_allclose(points @ matrix[:, :2].T + matrix[:, 2], ARCFACE_LANDMARKS, atol=1e-9)


def test_transform_is_umeyama_s_for_landmarks_that_do_not_fit():
    """The closed form agrees with the singular value decomposition of Umeyama 1991, equations 39 to 43."""
    points = turned(20, 1.3, 40) + np.random.default_rng(0).normal(0, 4, (5, 2))
    source, target = points - points.mean(0), ARCFACE_LANDMARKS - ARCFACE_LANDMARKS.mean(0)
    left, singular, right = np.linalg.svd(target.T @ source / 5)
    rotation = left @ right
    scale = singular.sum() / source.var(axis=0).sum()
    shift = ARCFACE_LANDMARKS.mean(0) - scale * rotation @ points.mean(0)
    expected = np.column_stack([scale * rotation, shift])
    np.testing.assert_allclose(similarity_transforms(points[None])[0], expected, atol=1e-10)


def test_reference_points_scale_with_the_crop():
    matrix = similarity_transforms(ARCFACE_LANDMARKS[None], image_size=224)[0]
    np.testing.assert_allclose(matrix, [[2, 0, 0], [0, 2, 0]], atol=1e-12)


def test_aligned_crop_of_an_aligned_image_is_itself():
    image = np.random.default_rng(0).integers(0, 256, (112, 112, 3), dtype=np.uint8)
    np.testing.assert_array_equal(align_faces([image], ARCFACE_LANDMARKS[None])[0].permute(1, 2, 0), image)


def test_shift_moves_whole_pixels_and_the_outside_is_black():
    image = np.random.default_rng(0).integers(1, 256, (90, 130, 3), dtype=np.uint8)
    crop = align_faces([image], ARCFACE_LANDMARKS[None] + [20, -10])[0].permute(1, 2, 0).numpy()
    np.testing.assert_array_equal(crop[10:100, :110], image[:, 20:])
    assert not crop[:10].any() and not crop[100:].any() and not crop[:, 110:].any()


def test_crops_are_those_of_opencv():
    """Images of several sizes with faces rotated, scaled and partly outside: off by at most one, due to rounding."""
    cv2 = pytest.importorskip("cv2")
    rng = np.random.default_rng(0)
    sizes = [(250, 250), (120, 200), (300, 80), (1, 1)]
    images = [cv2.blur(rng.integers(0, 256, (*size, 3), dtype=np.uint8), (5, 5)).reshape(*size, 3) for size in sizes]
    landmarks = np.stack([turned(15, 1.6, 30), turned(-40, 0.7, (20, 60)), turned(5, 1.1, -20), turned(3, 1, 0)])
    crops = align_faces(images, landmarks).permute(0, 2, 3, 1).numpy()
    for image, matrix, crop in zip(images, similarity_transforms(landmarks).numpy(), crops, strict=True):
        expected = cv2.warpAffine(image, matrix, (112, 112), borderValue=0)
        difference = np.abs(crop.astype(int) - expected)
        assert difference.max() <= 1
        assert difference.mean() < 0.01


def test_landmarks_without_a_transform_are_named():
    landmarks = np.stack([ARCFACE_LANDMARKS, np.full((5, 2), 7.0)])
    with pytest.raises(ValueError, match=r"face 1: landmarks .* do not define a similarity transform"):
        similarity_transforms(landmarks)
    with pytest.raises(ValueError, match=r"shape \(faces, 5, 2\), found \(1, 68, 2\)"):
        similarity_transforms(torch.zeros(1, 68, 2))


@pytest.mark.parametrize("antialias", [False, True])
def test_differentiable_with_respect_to_the_pixels(antialias):
    """Of images larger than the crop of 4 x 4 pixels: their faces are about 2 and 3 times as large."""
    image = torch.rand(1, 7, 9, dtype=torch.float64, generator=torch.Generator().manual_seed(0), requires_grad=True)
    landmarks = np.stack([turned(10, 0.08, -1), turned(-20, 0.11, -2)])
    assert torch.autograd.gradcheck(lambda pixels: align_faces([pixels, pixels], landmarks, 4, antialias), image)


def test_differentiable_with_respect_to_the_landmarks():
    image = torch.rand(3, 9, 9, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    landmarks = torch.tensor(turned(10, 0.03, 1)[None], requires_grad=True)
    align_faces([image], landmarks, 4).sum().backward()
    assert landmarks.grad.isfinite().all() and landmarks.grad.abs().sum() > 0


def smooth(height: int, width: int, seed: int = 0) -> np.ndarray:
    """Noise without details finer than about eight pixels."""
    coarse = torch.rand(1, 3, height // 8 + 1, width // 8 + 1, generator=torch.Generator().manual_seed(seed)) * 255
    image = torch.nn.functional.interpolate(coarse, (height, width), mode="bicubic").clamp(0, 255)
    return image[0].permute(1, 2, 0).to(torch.uint8).numpy()


def test_faces_that_are_not_larger_than_the_crop_stay_as_they_are():
    image = np.random.default_rng(0).integers(0, 256, (200, 200, 3), dtype=np.uint8)
    landmarks = np.stack([turned(0, 1, 20), turned(30, 0.99, 50), turned(-80, 0.3, 60)])
    assert torch.equal(align_faces([image] * 3, landmarks, antialias=True), align_faces([image] * 3, landmarks))


@pytest.mark.parametrize("factor", [2, 3, 10])
@pytest.mark.parametrize("scale", [0.8, 1.3])
def test_antialiased_crops_of_a_large_face_are_those_of_a_small_copy(factor, scale):
    """Noise on each pixel averages out, whether the image is shrunk first or the crop is antialiased."""
    small = smooth(200, 240)
    large = np.repeat(np.repeat(small, factor, 0), factor, 1).astype(int)
    large = (large + np.random.default_rng(0).integers(-40, 41, large.shape)).clip(0, 255).astype(np.uint8)
    landmarks = turned(20, scale, 60)[None]
    at_large = (landmarks + 0.5) * factor - 0.5
    expected = align_faces([small], landmarks, antialias=True).float()
    antialiased, plain = (
        (align_faces([large], at_large, antialias=each) - expected).abs().mean() for each in (True, False)
    )
    assert antialiased < plain / 1.4
    assert antialiased < 40 / factor


def test_many_faces_in_any_order_are_those_of_each_alone():
    """Faces of many sizes, several in one image, some partly or wholly outside."""
    images = [smooth(300, 200), smooth(120, 500, seed=1)]
    rng = np.random.default_rng(0)
    scales, shifts = rng.uniform(0.3, 6, 40), rng.uniform(-100, 200, (40, 2))
    landmarks = np.stack([turned(17 * face, scales[face], shifts[face]) for face in range(40)])
    landmarks[7] += 5000
    batch = align_faces([images[face % 2] for face in range(40)], landmarks, antialias=True)
    assert not batch[7].any() and batch[0].any()
    for face in range(40):
        alone = align_faces([images[face % 2]], landmarks[face : face + 1], antialias=True)
        assert (batch[face].int() - alone[0].int()).abs().max() <= 1


@pytest.mark.parametrize("antialias", [False, True])
def test_images_of_one_size_as_a_batch(antialias):
    images = np.stack([smooth(150, 180, seed) for seed in range(3)])
    landmarks = np.stack([turned(3, 0.9, 20), turned(-9, 1.4, 10), turned(40, 0.5, 70)])
    crops = align_faces(list(images), landmarks, antialias=antialias)
    batch = align_faces(torch.from_numpy(images).permute(0, 3, 1, 2), landmarks, antialias=antialias)
    assert (crops.int() - batch.int()).abs().max() <= 1
    assert (align_faces(images.astype(np.float32), landmarks, antialias=antialias) - crops).abs().max() <= 0.51


def test_windows_hold_what_crops_of_4_pixels_show():
    """With the pixels that it is interpolated from, and at least one pixel of images that it does not show."""
    shifts, shrink = [(10, 20), (0, 0), (28, 38), (100, -100), (-100, 100), (10, 20)], torch.tensor([1, 1, 1, 1, 1, 3])
    expected = [
        [[9, 19], [15, 25]],
        [[0, 0], [5, 5]],
        [[27, 37], [30, 40]],
        [[29, 0], [30, 1]],
        [[0, 39], [1, 40]],
        [[9, 19], [17, 27]],
    ]
    to_image = torch.tensor([[[1, 0, x], [0, 1, y]] for x, y in shifts], dtype=torch.float64)
    for image in (np.zeros((40, 30, 3), np.uint8), torch.zeros(3, 40, 30)):
        assert _windows([image] * 6, to_image, image_size=4, shrink=shrink).tolist() == expected


@pytest.mark.parametrize("scale", [1.5, 1.9])
def test_an_antialiased_pixel_is_the_mean_of_four_places(scale):
    """They are the pixels of a crop that is twice as large, if the face is less than twice as large as the crop."""
    image, landmarks = smooth(300, 300), scale * ARCFACE_LANDMARKS[None] + 20
    large = align_faces([image.astype(np.float32)], landmarks - scale / 4, image_size=224)
    crop = align_faces([image.astype(np.float32)], landmarks, antialias=True)
    torch.testing.assert_close(crop, torch.nn.functional.avg_pool2d(large, 2), rtol=0, atol=1e-2)


def test_a_face_of_2_5_times_the_crop_is_first_shrunk_to_half():
    image = torch.from_numpy(smooth(300, 300)).permute(2, 0, 1).float()
    landmarks = 2.5 * ARCFACE_LANDMARKS[None]
    half, at_half = torch.nn.functional.avg_pool2d(image, 2), (landmarks + 0.5) / 2 - 0.5
    crops = (align_faces([image], landmarks, antialias=True), align_faces([half], at_half, antialias=True))
    torch.testing.assert_close(*crops, rtol=0, atol=1e-2)


def test_crops_are_made_where_the_images_are_unless_told_otherwise():
    image = torch.zeros(3, 150, 150)
    assert align_faces([image], ARCFACE_LANDMARKS[None]).device.type == "cpu"
    assert align_faces([image], ARCFACE_LANDMARKS[None], device="meta").device.type == "meta"
    assert align_faces([image.to("meta")], ARCFACE_LANDMARKS[None]).device.type == "meta"


def test_a_device_cuts_windows_of_a_batch_in_one_call():
    """As from the images one by one: windows of several sizes, at the edges and of one pixel."""
    images = torch.randint(0, 256, (3, 3, 20, 30), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    faces = torch.tensor([2, 0, 1])
    windows = torch.tensor([[[3, 4], [13, 9]], [[0, 0], [30, 20]], [[29, 19], [30, 20]]])
    expected = _cut(images, faces, windows, factor=4)
    assert expected.shape == (3, 3, 20, 32) and expected[0, :, :5, :10].equal(images[2, :, 4:9, 3:13])
    assert _cut_from_batch(images, faces, windows, width=32, height=20).equal(expected)


def test_nobody():
    with pytest.raises(ValueError, match="there are no faces to align"):
        align_faces([], np.empty((0, 5, 2)))
