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
from torch.nn.functional import avg_pool2d, grid_sample, pad

# Left eye, right eye (as seen in the image), nose, left and right corner of the mouth, in pixels of a 112 x 112 crop.
ARCFACE_LANDMARKS = np.array(
    [[38.2946, 51.6963], [73.5318, 51.5014], [56.0252, 71.7366], [41.5493, 92.3655], [70.7299, 92.2041]]
)
ARCFACE_SIZE = 112
# Bound the memory. What a CPU computes for more than a few crops does not stay in its cache.
CROPS_AT_ONCE = 256
CROPS_AT_ONCE_ON_CPU = 16


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
    source_mean = source.mean(1, keepdim=True)
    source = source - source_mean  # the target need not be centered too
    slope = (source.conj() * target).sum(1) / source.abs().square().sum(1)  # (B,)
    shift = target.mean() - slope * source_mean[:, 0]
    if not slope.isfinite().all():
        first = int(slope.isfinite().int().argmin())
        raise ValueError(f"face {first}: landmarks {landmarks[first].tolist()} do not define a similarity transform")
    rows = [slope.real, -slope.imag, shift.real, slope.imag, slope.real, shift.imag]
    return torch.stack(rows, dim=1).view(-1, 2, 3)


def align_faces(
    images: Sequence[np.ndarray] | Sequence[Tensor] | Tensor,
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
    shrink = pixels.floor().clamp_min(1).long() if antialias else torch.ones(len(images), dtype=torch.long)
    samples = pixels.ceil().clamp(1, 2).long() if antialias else shrink
    windows = _windows(images, to_image.detach(), image_size, shrink)
    device = torch.device(device or (images[0].device if isinstance(images[0], Tensor) else "cpu"))
    at_once = CROPS_AT_ONCE_ON_CPU if device.type == "cpu" else CROPS_AT_ONCE
    order, crops = [], []
    for factor, each in torch.stack([shrink, samples], dim=1).unique(dim=0).tolist():
        for faces in ((shrink == factor) & (samples == each)).nonzero()[:, 0].split(at_once):
            patches = _cut(images, faces, windows[faces], factor).to(device)
            patches = patches if patches.is_floating_point() else patches.float()
            linear, shift = to_image[faces].split([2, 1], dim=2)
            shift = (shift - windows[faces, 0, :, None] + 0.5) / factor - 0.5  # a pixel's center is at half of it
            to_patch = torch.cat([linear / factor, shift], dim=2)
            shrunk = avg_pool2d(patches, factor) if factor > 1 else patches
            sampled = _sample(shrunk, to_patch, image_size, each)
            crops.append(sampled if _are_floats(images[0]) else sampled.round_().to(torch.uint8))
            order.append(faces)
    return torch.cat(crops)[torch.cat(order).argsort()]


def _crop_to_image(landmarks: Tensor, image_size: int) -> Tensor:
    """Matrices (B, 2, 3) that map points of crops to points of their images."""
    forward = similarity_transforms(landmarks, image_size)
    linear = torch.linalg.inv(forward[:, :, :2])  # (B, 2, 2)
    return torch.cat([linear, -linear @ forward[:, :, 2:]], dim=2)


def _windows(images, to_image: Tensor, image_size: int, shrink: Tensor) -> Tensor:
    """The parts of their images that crops show (B, 2, 2): x and y of the first pixel, and behind the last."""
    edges = torch.tensor([-0.5, image_size - 0.5])
    corners = torch.stack([*torch.meshgrid(edges, edges, indexing="ij"), torch.ones(2, 2)]).flatten(1)  # (3, 4)
    covered = (to_image @ corners.to(to_image)).floor().long()  # (B, 2, 4)
    sizes = torch.tensor([image.shape[:0:-1] if isinstance(image, Tensor) else image.shape[1::-1] for image in images])
    first = torch.minimum(covered.amin(2).clamp_min(0), sizes - 1)
    end = torch.minimum(covered.amax(2) + 1 + shrink[:, None], sizes)
    return torch.stack([first, torch.maximum(end, first + 1)], dim=1)


def _cut(images, faces: Tensor, windows: Tensor, factor: int) -> Tensor:
    """Windows of images (N, C, H, W), filled up with black to the largest of them and to multiples of a factor."""
    width, height = (-(-side // factor) * factor for side in (windows[:, 1] - windows[:, 0]).amax(0).tolist())
    if isinstance(images, Tensor) and images.device.type != "cpu":
        return _cut_from_batch(images, faces.to(images.device), windows.to(images.device), width, height)
    parts = []
    for face, ((left, top), (right, bottom)) in zip(faces.tolist(), windows.tolist(), strict=True):
        rows, columns = slice(top, bottom), slice(left, right)
        is_tensor = isinstance(images[face], Tensor)
        parts.append(images[face][:, rows, columns] if is_tensor else images[face][rows, columns])
    if isinstance(parts[0], Tensor):
        return torch.stack([pad(part, (0, width - part.shape[2], 0, height - part.shape[1])) for part in parts])
    filled = np.zeros((len(parts), height, width, parts[0].shape[2]), dtype=np.result_type(*parts))
    for place, part in enumerate(parts):
        filled[place, : part.shape[0], : part.shape[1]] = part
    return torch.from_numpy(filled).permute(0, 3, 1, 2)


def _cut_from_batch(images: Tensor, faces: Tensor, windows: Tensor, width: int, height: int) -> Tensor:
    """As [`_cut`], for a batch on a device: all windows at once, with fewer kernel launches."""
    (left, top), (right, bottom) = windows[:, :, :, None].permute(1, 2, 0, 3)  # (N, 1) each
    columns, rows = left + torch.arange(width).to(left), top + torch.arange(height).to(top)
    inside = (rows < bottom)[:, None, :, None] & (columns < right)[:, None, None]  # (N, 1, H, W)
    rows, columns = torch.minimum(rows, bottom - 1)[:, :, None], torch.minimum(columns, right - 1)[:, None]
    return images[faces[:, None, None], :, rows, columns].permute(0, 3, 1, 2) * inside


def _sample(patches: Tensor, to_patch: Tensor, image_size: int, samples: int) -> Tensor:
    """Crops (N, C, S, S) of patches, interpolated bilinearly at as many places of a pixel on a side, and averaged."""
    places = (torch.arange(image_size * samples, dtype=torch.float64) + 0.5) / samples - 0.5  # in pixels of the crop
    sizes = torch.tensor(patches.shape[:1:-1])
    linear, shift = to_patch.split([2, 1], dim=2)
    linear, shift = 2 * linear / sizes[:, None], (2 * shift.mT + 1) / sizes - 1  # to -1..1
    across, down = (places[:, None] * linear[:, None, :, axis] for axis in (0, 1))  # (N, S * samples, 2)
    grid = (down + shift)[:, :, None].to(patches) + across[:, None].to(patches)
    sampled = grid_sample(patches, grid, align_corners=False)
    return avg_pool2d(sampled, samples) if samples > 1 else sampled


def _are_floats(image: np.ndarray | Tensor) -> bool:
    return image.is_floating_point() if isinstance(image, Tensor) else image.dtype.kind == "f"
