"""Face alignment: maps five landmarks to the ArcFace reference points, for whole batches, in pure torch.

The similarity transform (rotation, scale, shift) is the least-squares one of Umeyama 1991, which skimage's
`SimilarityTransform` and InsightFace's `norm_crop` use. In the plane it needs no singular value decomposition: with
points as complex numbers it is a linear regression, crop = a * image + t, and the complex slope a holds both rotation
and scale. Pixels are interpolated bilinearly, with black outside the image, as in `cv2.warpAffine`.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import affine_grid, grid_sample

# Left eye, right eye (as seen in the image), nose, left and right corner of the mouth, in pixels of a 112 x 112 crop.
ARCFACE_LANDMARKS = np.array(
    [[38.2946, 51.6963], [73.5318, 51.5014], [56.0252, 71.7366], [41.5493, 92.3655], [70.7299, 92.2041]]
)
ARCFACE_SIZE = 112


def similarity_transforms(landmarks: np.ndarray | Tensor, image_size: int = ARCFACE_SIZE) -> Tensor:
    """Matrices (B, 2, 3), float64, that map points of an image to points of its aligned crop.

    Args:
        landmarks: (B, 5, 2) x and y of the five landmarks, in the order of `ARCFACE_LANDMARKS`, in pixels.
        image_size: height and width of the crop; the reference points are scaled to it.

    Raises:
        ValueError: if the landmarks have the wrong shape, are not finite, or coincide; the message names the first such
            face.
    """
    landmarks = torch.as_tensor(landmarks, dtype=torch.float64)
    if landmarks.shape[1:] != (5, 2):
        raise ValueError(f"expected landmarks of shape (faces, 5, 2), found {tuple(landmarks.shape)}")
    reference = torch.as_tensor(ARCFACE_LANDMARKS, device=landmarks.device) * (image_size / ARCFACE_SIZE)
    source, target = torch.view_as_complex(landmarks.contiguous()), torch.view_as_complex(reference)
    source_mean, target_mean = source.mean(1, keepdim=True), target.mean()
    source, target = source - source_mean, target - target_mean
    slope = (source.conj() * target).sum(1) / source.abs().square().sum(1)  # (B,)
    shift = target_mean - slope * source_mean[:, 0]
    if not slope.isfinite().all():
        first = int(slope.isfinite().int().argmin())
        raise ValueError(f"face {first}: landmarks {landmarks[first].tolist()} do not define a similarity transform")
    rows = [slope.real, -slope.imag, shift.real, slope.imag, slope.real, shift.imag]
    return torch.stack(rows, dim=1).view(-1, 2, 3)


def align_faces(images: Sequence[np.ndarray], landmarks: np.ndarray | Tensor, image_size: int = ARCFACE_SIZE) -> Tensor:
    """Aligned crops (B, 3, image_size, image_size), uint8 RGB.

    Args:
        images: images (H, W, 3), uint8 RGB, of any sizes.
        landmarks: (B, 5, 2) x and y of the five landmarks, in pixels of their image.
        image_size: height and width of the crops.
    """
    sizes = [image.shape[1::-1] for image in images]
    grids = affine_grid(
        _sampling_matrices(landmarks, sizes, image_size), [len(images), 3, image_size, image_size], False
    )
    crops = torch.empty(len(images), 3, image_size, image_size, dtype=torch.uint8)
    for crop, image, grid in zip(crops, images, grids, strict=True):
        planes = torch.from_numpy(image.astype(np.float32)).permute(2, 0, 1)
        crop.copy_(grid_sample(planes[None], grid[None], align_corners=False)[0].round_())
    return crops


def _sampling_matrices(landmarks, sizes: list[tuple[int, int]], image_size: int) -> Tensor:
    """Matrices (B, 2, 3) from crop to image for `affine_grid`, both with their edges at -1 and 1."""
    forward = similarity_transforms(landmarks, image_size)
    linear = torch.linalg.inv(forward[:, :, :2])  # (B, 2, 2)
    shift = -linear @ forward[:, :, 2:]
    # Pixel i is at (2 i + 1) / size - 1.
    shift = (linear.sum(2, keepdim=True) * (image_size - 1) + 2 * shift + 1) / torch.tensor(sizes)[..., None] - 1
    return torch.cat([linear * image_size / torch.tensor(sizes)[..., None], shift], dim=2).float()
