"""Somebody's own package: one of everything that hf_face can be extended by, each in the one place where it stands."""

import torch
import torch.nn.functional as F
from huggingface_hub.dataclasses import strict
from torch import Tensor, nn
from transformers.utils import can_return_tuple

from hf_face.convert import CheckpointSource
from hf_face.data import load_identities
from hf_face.data.augmentation import PerImage
from hf_face.evaluation import Evaluator, Findings
from hf_face.evaluation.plots import plot_scores
from hf_face.heads.margins import Margin
from hf_face.models import FaceConfig, FacePreTrainedModel, register_family
from hf_face.models.modeling_face import face_embedding_output
from hf_face.registry import augmentations, margins, methods, protocols, sources
from hf_face.training import TrainingMethod


def bibtex(key: str) -> str:
    return f"@misc{{{key},\n  title = {{Our {key}}},\n  year = {{2026}}\n}}"


@margins.register("our_margin", citation=bibtex("ourmargin"))
class OurMargin(Margin):
    """cos(theta) - m sin(theta): most where the angle is a right one."""

    def __init__(self, m: float = 0.2):
        super().__init__()
        self.m = m

    def forward(self, cosine: Tensor, norm: Tensor) -> Tensor:
        return cosine - self.m * (1 - cosine.square()).clamp(min=1e-6).sqrt()


@strict
class OurConfig(FaceConfig):
    """The mean colors of a grid, and a linear layer."""

    model_type = "our_family"
    citations = (bibtex("ourfamily"),)

    grid: int = 4


class OurModel(FacePreTrainedModel):
    """The mean colors of a grid, and a linear layer."""

    config_class = OurConfig

    def __init__(self, config: OurConfig):
        super().__init__(config)
        self.linear = nn.Linear(config.num_channels * config.grid**2, config.embedding_size)
        self.post_init()

    @can_return_tuple
    def forward(self, pixel_values: Tensor, **kwargs):
        grid = F.adaptive_avg_pool2d(pixel_values, self.config.grid)
        return face_embedding_output(self.linear(grid.flatten(1)), grid)


register_family(OurConfig, OurModel)


@protocols.register("our_protocol", citation=bibtex("ourprotocol"))
class OurProtocol(Evaluator):
    """
    The mean cosine similarity of each face with the next one.

    Args:
        data: identity data, as `load_identities` takes it.
        num_images: how many of its images to compare.
    """

    name, primary_metric, flip = "neighbors", "similarity", None

    def __init__(self, data: str, num_images: int = 20):
        self.images = load_identities(data).select(range(num_images))

    def compute(self, embedder) -> Findings:
        embeddings = embedder(self.images, self.flip).embeddings
        similarities = (embeddings[1:] * embeddings[:-1]).sum(1)
        plots = {"similarities": lambda: plot_scores(similarities, similarities, self.name)}
        return Findings({"similarity": float(similarities.mean())}, plots)


@methods.register("two_passes", citation=bibtex("twopasses"))
class TwoPasses(TrainingMethod):
    """
    The margin softmax over weighted samples, and a learned projection that predicts an earlier pass of the images.

    Args:
        weight: factor on the loss of the projection.
    """

    def __init__(self, weight: float = 0.1):
        super().__init__()
        self.weight = weight

    def setup(self, trainer):
        self.projection = nn.Linear(trainer.model.config.backbone_config.embedding_size, 3)

    def losses(self, model, batch):
        with torch.no_grad():
            first = model(pixel_values=batch["pixel_values"].flip(-1))

        def moved(embedding) -> Tensor:
            return 1 + (first.pooler_output - embedding.pooler_output).square().mean(1).detach()

        output = model(
            pixel_values=batch["pixel_values"],
            labels=batch["labels"],
            sample_weight=moved,
        )
        colors = batch["images"].float().mean((2, 3)) / 255  # (B, 3)
        self.observe(norm_of_first_pass=first.norm.mean())
        return {
            "margin_softmax": output.loss,
            "colors": self.weight * F.mse_loss(self.projection(output.pooler_output), colors),
        }


@methods.register("our_triplets", citation=bibtex("ourtriplets"))
class OurTriplets(TrainingMethod):
    """
    The triplet loss with the batch's hardest pairs, which knows no class centers.

    Args:
        margin: by how much a stranger must be farther away.
    """

    uses_head = False

    def __init__(self, margin: float = 0.3):
        super().__init__()
        self.margin = margin

    def losses(self, model, batch):
        embeddings = model(pixel_values=batch["pixel_values"]).pooler_output
        distances = 2 - 2 * embeddings @ embeddings.T  # (B, B)
        same = batch["labels"][:, None] == batch["labels"]
        positive = distances.masked_fill(~same, 0).amax(1)
        negative = distances.masked_fill(same, 4).amin(1)
        return {"triplets": F.relu(positive - negative + self.margin).mean()}


@augmentations.register("our_augmentation", citation=bibtex("ouraugmentation"))
class OurAugmentation(PerImage):
    """Turn colors into their negative."""

    def __init__(self, p: float = 0.5):
        super().__init__(p)

    def augment(self, images, generator):
        return 255 - images


@sources.register("our_project", citation=bibtex("oursource"))
class OurProject(CheckpointSource):
    """Checkpoints of our own trainer, which calls the linear layer `fc` and its class centers `proxies`."""

    model_type = "our_family"
    renames = ((r"^linear\.", "fc."),)
    class_centers = {"proxies": False}  # noqa: RUF012

    def find_prefix(self, tensors):
        return "" if "fc.weight" in tensors else None

    def config(self, tensors, checkpoint, **overrides):
        rows, columns = tensors["fc.weight"].shape
        return OurConfig(**{"embedding_size": rows, "grid": int((columns / 3) ** 0.5), **overrides})
