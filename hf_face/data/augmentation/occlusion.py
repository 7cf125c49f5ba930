"""Augmentations that black out part of the image."""

from torch import Generator, Tensor

from ...registry import augmentations
from .base import PerImage
from .geometric import inside, random_boxes, random_crops
from .low_resolution import ADAFACE

RANDOM_ERASING = """
@inproceedings{random_erasing,
  title = {Random Erasing Data Augmentation},
  author = {Zhong, Zhun and Zheng, Liang and Kang, Guoliang and Li, Shaozi and Yang, Yi},
  booktitle = {AAAI Conference on Artificial Intelligence},
  year = {2020}
}
"""


@augmentations.register("zero_padded_crop", citation=ADAFACE)
class ZeroPaddedCrop(PerImage):
    """Blacks out everything outside a random box, without moving the box (AdaFace's crop augmentation).

    Args:
        min_area: Smallest area of the box, as a fraction of the image's area.
        p: Probability for each image.
    """

    def __init__(self, min_area: float = 0.2, p: float = 0.2):
        super().__init__(p)
        self.min_area = min_area

    def augment(self, images: Tensor, generator: Generator | None) -> Tensor:
        return images * inside(random_crops(images, self.min_area, generator), images)


@augmentations.register("random_erasing", citation=RANDOM_ERASING)
class RandomErasing(PerImage):
    """Blacks out a random box (Zhong et al. 2020, "Random Erasing Data Augmentation"; torchvision's defaults).

    Args:
        min_area, max_area: Range of the box's area, as a fraction of the image's area.
        ratio: Range of its width / height.
        p: Probability for each image.
    """

    def __init__(
        self,
        min_area: float = 0.02,
        max_area: float = 0.33,
        ratio: tuple[float, float] = (0.3, 3.3),
        p: float = 0.5,
    ):
        super().__init__(p)
        self.min_area = min_area
        self.max_area = max_area
        self.ratio = ratio

    def augment(self, images: Tensor, generator: Generator | None) -> Tensor:
        boxes = random_boxes(images, self.min_area, self.max_area, self.ratio, generator)
        return images * ~inside(boxes, images)
