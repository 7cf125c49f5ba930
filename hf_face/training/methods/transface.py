"""TransFace: perturbed patches and weighted samples for a vision transformer that weights its patches."""

import math
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from ...data.augmentation.draws import beside
from ...models import ViTFaceOutput
from ...models.configuration_vit_face import TRANSFACE
from ...registry import methods
from .base import TrainingMethod

SampleWeighting = Literal["code", "paper"]


@methods.register("transface", citation=TRANSFACE)
class TransFace(TrainingMethod):
    r"""
    The margin softmax with perturbed dominant patches (DPAP) and a weight for each sample (EHSM), for `vit_face` with
    `patch_weighting`.

    A first pass without gradient gives the patch weights. In each image, with a probability, the patches of the largest
    weights get the Fourier amplitude of random patches of the batch mixed into theirs (see [`amplitude_mix`]). The
    second pass trains, and each sample's loss is multiplied by a weight that grows as the entropy of its patches falls
    (see [`sample_weight`]). Dan et al., ICCV 2023, sections 3.2 and 3.3; as in the published code, both passes are in
    training mode. Random patches are taken before any is perturbed.

    Inputs: `images` (B, 3, H, W), `pixel_values` (B, 3, H, W) and `labels` (B,). Logs `embedding_norm` and
    `target_cosine` as [`MarginSoftmax`] does.

    Args:
        probability: probability of an image to be perturbed; 0 leaves out the first pass.
        num_patches: number K of dominant patches in an image.
        alpha: the share lambda of the random patch's amplitude is uniform in [0, alpha].
        ehsm: how to weight samples, see [`sample_weight`]; None to weight all alike.

    Example:
    ```python
    >>> config = FaceRecognitionConfig(ViTFaceConfig(patch_weighting=True, mask_ratio=0.0), num_identities=1000)
    >>> trainer = FaceTrainer(FaceRecognitionModel(config), args, train_dataset=people, method=TransFace())
    ```
    """

    normalize: nn.Module

    def __init__(
        self,
        probability: float = 0.2,
        num_patches: int = 7,
        alpha: float = 1.0,
        ehsm: SampleWeighting | None = "code",
    ):
        super().__init__()
        for name, value in {"probability": probability, "alpha": alpha}.items():
            if not 0 <= value <= 1:
                raise ValueError(f"transface: {name} must be in [0, 1], found {value}.")
        if ehsm is not None:
            check_weighting(ehsm)
        self.probability, self.num_patches, self.alpha, self.ehsm = probability, num_patches, alpha, ehsm

    def setup(self, trainer) -> None:
        config = trainer.model.config.backbone_config
        if not getattr(config, "patch_weighting", False):
            raise ValueError(
                "The method transface requires a backbone that weights its patches, vit_face with patch_weighting: "
                f"true; found {config.model_type}{' without it' if hasattr(config, 'patch_weighting') else ''}."
            )
        if not 1 <= self.num_patches <= config.num_patches:
            raise ValueError(
                f"transface: num_patches must be in [1, {config.num_patches}], the patches of this backbone, found "
                f"{self.num_patches}."
            )
        self.patch_size, self.normalize = config.patch_size, trainer.normalize

    def losses(self, model: nn.Module, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        if self.probability > 0:
            with torch.no_grad():
                first = model(pixel_values=batch["pixel_values"], output_patch_weights=True)
                self.perturb(batch["images"], batch["pixel_values"], first.backbone_output.patch_weights)
        output = model(
            pixel_values=batch["pixel_values"],
            labels=batch["labels"],
            sample_weight=self.weigh if self.ehsm else None,
            output_patch_weights=True,
        )
        self.observe(embedding_norm=output.norm.mean(), target_cosine=output.target_cosine.mean())
        return {"margin_softmax": output.loss}

    def weigh(self, output: ViTFaceOutput) -> Tensor:
        """The weights (B,) of the samples, from the backbone's output."""
        return sample_weight(output.patch_entropy, self.ehsm)

    def perturb(self, images: Tensor, pixel_values: Tensor, patch_weights: Tensor) -> None:
        """
        Perturb the dominant patches of some images, in place.

        Args:
            images: (B, 3, H, W), uint8, which are not modified.
            pixel_values: (B, 3, H, W), the same images, normalized.
            patch_weights: (B, patches).
        """
        chosen, others, places, lam = (beside(images, values) for values in self.draw(*patch_weights.shape))
        if len(chosen) == 0:
            return
        dominant = patch_weights[chosen].topk(self.num_patches).indices  # (n, K)
        patches = patches_of(images, self.patch_size)
        columns = patches.shape[2]
        at = chosen[:, None], dominant // columns, dominant % columns
        source, random = patches[at], patches[others, places // columns, places % columns]  # (n, K, 3, size, size)
        mixed = amplitude_mix(source.flatten(0, 1), random.flatten(0, 1), lam.flatten()).clamp(0, 255).to(images.dtype)
        patches_of(pixel_values, self.patch_size)[at] = self.normalize(mixed).unflatten(0, lam.shape)

    def draw(self, batch_size: int, num_patches: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Draw the images (n,) to perturb, and for each dominant patch (n, K) another's image, place and share."""
        chosen = (torch.rand(batch_size, generator=self.generator) < self.probability).nonzero()[:, 0]
        shape = len(chosen), self.num_patches
        others = torch.randint(batch_size, shape, generator=self.generator)
        places = torch.randint(num_patches, shape, generator=self.generator)
        return chosen, others, places, self.alpha * torch.rand(shape, generator=self.generator)


def patches_of(images: Tensor, size: int) -> Tensor:
    """A view (B, rows, columns, C, size, size) of images (B, C, H, W), without what is left at the right and bottom."""
    rows, columns = images.shape[2] // size, images.shape[3] // size
    whole = images[:, :, : rows * size, : columns * size]
    return whole.unflatten(3, (columns, size)).unflatten(2, (rows, size)).permute(0, 2, 4, 1, 3, 5)


def amplitude_mix(source: Tensor, random: Tensor, lam: Tensor, ratio: float = 1.0) -> Tensor:
    """
    Mix the Fourier amplitudes of patches, and keep the phases of `source`.

    Args:
        source, random: (N, C, h, w), floating point or uint8, in [0, 255].
        lam: (N,), the share of `random`'s amplitude, in [0, 1].
        ratio: fraction of the spectrum to mix, around the lowest frequency.

    Returns:
        (N, C, h, w), floating point. May exceed [0, 255]; the published code clips it and drops the decimals.
    """
    ours, theirs = torch.fft.rfft2(source), torch.fft.rfft2(random)  # (N, C, h, w // 2 + 1)
    amplitude = ours.abs()
    share = lam.to(amplitude)[:, None, None, None]
    if ratio < 1:
        share = share * _mixed_frequencies(source.shape[2], source.shape[3], ratio).to(amplitude)
    phase = torch.where(amplitude == 0, 1, ours.sgn())  # exp(i angle), several times faster
    return torch.fft.irfft2(amplitude.lerp(theirs.abs(), share) * phase, s=source.shape[2:])


def _mixed_frequencies(height: int, width: int, ratio: float) -> Tensor:
    """How much of each frequency `(height, width // 2 + 1)` is mixed.

    The published code mixes a window of the centered spectrum, which may hold a frequency without its negative, and
    takes the real part of the image; that is mixing both by half.
    """
    window = torch.zeros(height, width)
    rows, columns = int(height * math.sqrt(ratio)), int(width * math.sqrt(ratio))
    top, left = height // 2 - rows // 2, width // 2 - columns // 2
    window[top : top + rows, left : left + columns] = 1
    window = torch.fft.ifftshift(window)
    negative = window.flip(0, 1).roll((1, 1), (0, 1))
    return ((window + negative) / 2)[:, : width // 2 + 1]


def sample_weight(patch_entropy: Tensor, mode: SampleWeighting = "code") -> Tensor:
    """
    The weights of samples in the loss, which grow as the mean entropy of their patches falls: 1 + exp(-mean).

    Args:
        patch_entropy: (B, patches), the standard deviation of each patch's token over its channels, as [`ViTFaceModel`]
            returns it.
        mode: `"code"` to take the standard deviation for the entropy, as the published code does, or `"paper"` for the
            entropy of a normal distribution with it, log(deviation) + (1 + log(2 pi)) / 2.

    Returns:
        (B,), without gradient; not normalized over the batch.

    Raises:
        ValueError: for another mode.
    """
    check_weighting(mode)
    entropy = patch_entropy.detach().to(torch.promote_types(patch_entropy.dtype, torch.float32))
    if mode == "paper":
        entropy = entropy.clamp(min=1e-6).log() + (1 + math.log(2 * math.pi)) / 2  # a gate of 0 leaves no deviation
    return 1 + (-entropy.mean(1)).exp()


def check_weighting(mode: str) -> None:
    """Raise `ValueError` if `mode` is not one of [`sample_weight`]."""
    if mode not in get_args(SampleWeighting):
        raise ValueError(
            f"Samples are weighted as in {' or '.join(map(repr, get_args(SampleWeighting)))}, found {mode!r}."
        )


__all__ = ["TransFace", "amplitude_mix", "sample_weight"]
