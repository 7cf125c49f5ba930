"""
Face alignment: maps five landmarks to the ArcFace reference points, for whole batches, in pure torch.

The similarity transform (rotation, scale, shift) is the least-squares one of Umeyama 1991, which skimage's
`SimilarityTransform` and InsightFace's `norm_crop` use. In the plane it needs no singular value decomposition: with
points as complex numbers it is a linear regression, crop = a * image + t, and the complex slope a holds both rotation
and scale. Pixels are interpolated bilinearly, with black outside the image, as in `cv2.warpAffine`.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import affine_grid, avg_pool2d, grid_sample

# Left eye, right eye (as seen in the image), nose, left and right corner of the mouth, in pixels of a 112 x 112 crop.
ARCFACE_LANDMARKS = np.array(
    [[38.2946, 51.6963], [73.5318, 51.5014], [56.0252, 71.7366], [41.5493, 92.3655], [70.7299, 92.2041]]
)
ARCFACE_SIZE = 112
# Bound the memory. What a CPU computes for more than a few crops does not stay in its cache.
CROPS_AT_ONCE, CROPS_AT_ONCE_ON_CPU = 256, 16


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


def align_faces(
    images: Sequence[np.ndarray | Tensor] | Tensor,
    landmarks: np.ndarray | Tensor,
    image_size: int = ARCFACE_SIZE,
    antialias: bool = False,
    device: torch.device | str | None = None,
) -> Tensor:
    """
    Cut out and align faces, all at once. Differentiable with respect to the pixels and the landmarks.

    Without antialiasing, crops equal those of `cv2.warpAffine` within one gray level: protocols and training sets are
    made like that. It reads four pixels of the image for a pixel of the crop, however many lie between them, so that
    the crop of a large face has noise that a smaller copy of the same photograph does not have. With antialiasing,
    pixels of the crop are means of those that they cover. Faces that are not larger than the crop stay the same.

    What that changes, as SFace's cosine similarity of one face in a photograph and in a smaller copy of it, with the
    same landmarks: 0.991 without and 1.000 with antialiasing for matplotlib's photograph of Grace Hopper (a face of 212
    pixels) at half its size, and 0.955 and 0.972 at a quarter. For 12 photographs of LFW, enlarged four times and with
    the noise of a camera (10 gray levels), 0.968 and 0.999 on average.

    Args:
        images: One image per face, of any size: arrays `(height, width, 3)` or tensors `(3, height, width)`, uint8 or
            floats; or a batch of images of one size, `(faces, 3, height, width)`.
        landmarks: x and y of the five landmarks `(faces, 5, 2)`, in pixels of their image.
        image_size: Height and width of the crops.
        antialias: Whether to average the pixels of faces that are larger than the crop.
        device: Where to align; defaults to where the images are.

    Returns:
        `torch.Tensor`: Crops `(faces, 3, image_size, image_size)` with the images' channels; uint8 if the images are,
        else of their type.

    Raises:
        ValueError: if there are no faces, or landmarks do not define a transform; the message names the first such
            face.
    """
    if not len(images):
        raise ValueError("there are no faces to align")
    to_image = _crop_to_image(torch.as_tensor(landmarks).cpu(), image_size)
    pixels = to_image.detach()[:, :, 0].norm(dim=1) - 1e-6  # of the image, in a pixel of the crop
    shrink = pixels.floor().clamp_min(1).int() if antialias else torch.ones(len(images), dtype=torch.int32)
    samples = (pixels > 1).int() + 1 if antialias else shrink
    device = torch.device(device or (images[0].device if isinstance(images[0], Tensor) else "cpu"))
    at_once = CROPS_AT_ONCE_ON_CPU if device.type == "cpu" else CROPS_AT_ONCE
    order, crops = [], []
    for each in samples.unique().tolist():
        for faces in (samples == each).nonzero()[:, 0].split(at_once):
            patches, to_patch = _patches(images, to_image, shrink, faces.tolist(), image_size)
            sampled = _sample(patches.to(device), to_patch, image_size, each)
            crops.append(avg_pool2d(sampled, each) if each > 1 else sampled)
            order.append(faces)
    aligned = torch.cat(crops)[torch.cat(order).argsort()]
    return aligned if _are_floats(images[0]) else aligned.round_().to(torch.uint8)


def _crop_to_image(landmarks: Tensor, image_size: int) -> Tensor:
    """Matrices (B, 2, 3) that map points of crops to points of their images."""
    forward = similarity_transforms(landmarks, image_size)
    linear = torch.linalg.inv(forward[:, :, :2])  # (B, 2, 2)
    return torch.cat([linear, -linear @ forward[:, :, 2:]], dim=2)


def _patches(images, to_image: Tensor, shrink: Tensor, faces: list[int], image_size: int) -> tuple[Tensor, Tensor]:
    """
    What crops show of their images, shrunk: patches (N, C, H, W), filled up with black, and the matrices (N, 2, 3) that
    map points of crops to points of patches.
    """
    if isinstance(images, Tensor) and (shrink[faces] == 1).all():
        return images[faces], to_image[faces]
    edges = torch.tensor([-0.5, image_size - 0.5])
    corners = torch.stack([*torch.meshgrid(edges, edges, indexing="ij"), torch.ones(2, 2)]).flatten(1)  # (3, 4)
    patches, to_patch = [], []
    for face in faces:
        factor = int(shrink[face])
        covered = to_image.detach()[face] @ corners.to(to_image)  # (2, 4)
        first, last = covered.amin(1).floor().int().tolist(), covered.amax(1).floor().int().tolist()
        patch, origin = _cut(images[face], first, [end + 1 + factor for end in last])
        if factor > 1:
            patch = avg_pool2d(patch if patch.is_floating_point() else patch.float(), factor, ceil_mode=True)
        patches.append(patch)
        linear, shift = to_image[face].split([2, 1], dim=1)
        shift = (shift - origin[:, None] + 0.5) / factor - 0.5  # a pixel's center is at half of it
        to_patch.append(torch.cat([linear / factor, shift], dim=1))
    height, width = (max(patch.shape[axis] for patch in patches) for axis in (1, 2))
    dtype = next((patch.dtype for patch in patches if patch.is_floating_point()), patches[0].dtype)
    filled = patches[0].new_zeros(len(patches), len(patches[0]), height, width, dtype=dtype)
    for place, patch in enumerate(patches):
        filled[place, :, : patch.shape[1], : patch.shape[2]] = patch
    return filled, torch.stack(to_patch)


def _cut(image: np.ndarray | Tensor, first: list[int], end: list[int]) -> tuple[Tensor, Tensor]:
    """The part (C, H, W) of an image between two corners (x, y), where it has one, and its own first corner."""
    height, width = image.shape[1:] if isinstance(image, Tensor) else image.shape[:2]
    left, top = min(max(0, first[0]), width - 1), min(max(0, first[1]), height - 1)
    rows, columns = slice(top, max(end[1], top + 1)), slice(left, max(end[0], left + 1))
    part = image[:, rows, columns] if isinstance(image, Tensor) else torch.tensor(image[rows, columns]).permute(2, 0, 1)
    return part, torch.tensor([left, top])


def _sample(patches: Tensor, to_patch: Tensor, image_size: int, samples: int) -> Tensor:
    """Crops (N, C, S, S) of `patches`, interpolated bilinearly, with S = `image_size * samples`."""
    values = patches if patches.is_floating_point() else patches.float()
    sizes = torch.tensor(values.shape[:1:-1])[:, None]
    linear, shift = to_patch.split([2, 1], dim=2)
    # Edges are at -1 and 1, so that pixel i is at (2 i + 1) / size - 1.
    shift = (linear.sum(2, keepdim=True) * (image_size - 1) + 2 * shift + 1) / sizes - 1
    theta = torch.cat([linear * image_size / sizes, shift], dim=2).to(values)
    side = image_size * samples
    grid = affine_grid(theta, [*values.shape[:2], side, side], align_corners=False)
    return grid_sample(values, grid, align_corners=False)


def _are_floats(image: np.ndarray | Tensor) -> bool:
    return image.is_floating_point() if isinstance(image, Tensor) else image.dtype.kind == "f"
