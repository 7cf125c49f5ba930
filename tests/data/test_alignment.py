import numpy as np
import pytest
import torch

from hf_face.data.alignment import ARCFACE_LANDMARKS, align_faces, similarity_transforms


def turned(degrees: float, scale: float, shift) -> np.ndarray:
    """The reference points in a rotated, scaled and shifted image."""
    radians = np.deg2rad(degrees)
    rotation = np.array([[np.cos(radians), -np.sin(radians)], [np.sin(radians), np.cos(radians)]])
    return scale * ARCFACE_LANDMARKS @ rotation.T + shift


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
