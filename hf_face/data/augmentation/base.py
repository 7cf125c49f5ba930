"""Base class for augmentations, and how to write one."""

from torch import Generator, Tensor, nn

from .draws import apply_where, uniform


class PerImage(nn.Module):
    '''
    Base class for augmentations that are applied to each image with probability `p`.

    An augmentation is registered where it is defined, in this folder or in your own module listed under a recipe's
    `plugins:`. Any module that takes uint8 images and a generator can be registered. Its options are the arguments of
    `__init__`, with defaults; an argument named `image_size` receives the size of the crops.

    Raises:
        ValueError: if `p` is not from 0 to 1.

    Example:
    ```python
    from torchvision.transforms.v2 import functional as F

    from hf_face.data.augmentation import PerImage
    from hf_face.registry import augmentations


    @augmentations.register("blur")
    class RandomBlur(PerImage):
        """Blur images."""

        def __init__(self, sigma: float = 1.0, p: float = 0.1):
            super().__init__(p)
            self.sigma = sigma

        def augment(self, images, generator):
            return F.gaussian_blur(images, kernel_size=5, sigma=self.sigma)
    ```

    A recipe then sets `augmentation: [flip, blur]`, or `{blur: {p: 0.2}}` with options.
    '''

    def __init__(self, p: float):
        super().__init__()
        if not 0 <= p <= 1:
            raise ValueError(f"p must be from 0 to 1, found {p}")
        self.p = p

    def forward(self, images: Tensor, generator: Generator | None = None) -> Tensor:
        """Augment uint8 (B, 3, H, W) in place."""
        chosen = uniform(len(images), generator=generator) < self.p
        apply_where(chosen, images, lambda some: self.augment(some, generator))
        return images

    def augment(self, images: Tensor, generator: Generator | None) -> Tensor:
        """Augment all `images`."""
        raise NotImplementedError
