"""Distillation: a trained face model teaches another one."""

from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from datasets import Array2D, Dataset, Features, concatenate_datasets
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel

from ...data import BatchNormalize, FaceDataset
from ...data.augmentation import RandomHorizontalFlip
from ...embedding import Embedder
from ...hub.model_folder import bare_backbone, is_face_model
from ...models import FaceEmbeddingOutput, FaceImageProcessor
from ...models.loading import load_image_processor
from ...registry import methods
from ...user_input import check_exists
from .base import TrainingMethod

HINTON = r"""@article{hinton2015distilling,
  title = {Distilling the Knowledge in a Neural Network},
  author = {Hinton, Geoffrey and Vinyals, Oriol and Dean, Jeff},
  journal = {arXiv preprint arXiv:1503.02531},
  year = {2015}
}"""
RELATIONAL = r"""@inproceedings{park2019relational,
  title = {Relational Knowledge Distillation},
  author = {Park, Wonpyo and Kim, Dongju and Lu, Yan and Cho, Minsu},
  booktitle = {CVPR},
  year = {2019}
}"""


class Teacher:
    """
    A frozen face model in evaluation mode. Not a module, so that what holds it neither trains, saves nor sends it.

    Args:
        model (`nn.Module`): A face model, whose parameters no longer require gradients.
        image_processor ([`FaceImageProcessor`]): Size and normalization of its input.
    """

    def __init__(self, model: Any, image_processor: Any):
        if image_processor is None:
            raise ValueError("A teacher that is a model, not the name of one, requires its image_processor=.")
        self.model = bare_backbone(model).eval().requires_grad_(False)
        self.image_processor = image_processor
        self._normalize = BatchNormalize.from_image_processor(image_processor)

    def __deepcopy__(self, memo: dict) -> "Teacher":
        return self  # each model of `model_init` has a copy of the method, and all of them the same teacher

    @classmethod
    def load(cls, name_or_path: str | Path) -> "Teacher":
        """
        Load a teacher from a folder or the Hub.

        Raises:
            FileNotFoundError: if it does not exist, or has no image processor.
            ValueError: if it is not a face model.
        """
        check_exists(name_or_path)
        model_type = AutoConfig.from_pretrained(name_or_path).model_type
        if not is_face_model(model_type):
            raise ValueError(f"The teacher {name_or_path} is a {model_type!r}, which is not a face model.")
        return cls(AutoModel.from_pretrained(name_or_path), load_image_processor(name_or_path))

    @property
    def embedding_size(self) -> int:
        return self.model.config.embedding_size

    @torch.no_grad()
    def embed(self, images: Tensor) -> Tensor:
        """Raw embeddings (B, D) of uint8 RGB images (B, 3, H, W) of any size, on their device."""
        processor = self.image_processor
        images = processor.resize(images, processor.size, processor.resample)
        output = self.model(pixel_values=self._normalize(images))
        return output.pooler_output * output.norm


@methods.register("distillation", citation=[HINTON, RELATIONAL])
class Distillation(TrainingMethod):
    r"""
    A teacher, any trained face model, teaches the backbone its embeddings.

    With s and t the raw embeddings of student and teacher for the same augmented image, and cos their cosine, the loss
    is the sum of

        weight             * mean over i of 1 - cos(s_i, t_i)                           (loss="cosine")
        weight             * mean over i and dimensions of (s_i - t_i)^2                (loss="l2")
        relational_weight  * mean over i != j of (cos(s_i, s_j) - cos(t_i, t_j))^2
        margin_weight      * loss of the margin head

    where terms of weight 0 are not computed. `margin_weight=0` uses no labels. The teacher sees the images at its own
    size, normalized by its own image processor. It is frozen, in evaluation mode, and not part of checkpoints.

    Args:
        teacher: Folder or Hub name of a face model, or the model itself. Not needed if the data have its embeddings.
        image_processor: The teacher's image processor, if `teacher` is a model.
        loss: `"cosine"` or `"l2"`.
        weight: Weight of the loss on embeddings.
        relational_weight: Weight of the loss on similarities inside the batch, which works with any embedding size.
        margin_weight: Weight of the margin head's loss.
        projection: Whether to compare a learned linear projection of the student's embeddings. It is necessary if the
            teacher's have another size, and is not published.
        column: Column of the training data with the teacher's embeddings of each image and its mirror image, see
            [`add_teacher_embeddings`]. They are computed before training if the data do not have it. Augmentation other
            than `flip` then only changes the student's images.

    Inputs: `images` (B, 3, H, W), `pixel_values` (B, 3, H, W), `labels` (B,) unless `margin_weight=0`, and `rows` (B,)
    of the training data with `column`. Logs the mean cosine of student and teacher, `teacher_cosine`.

    Example:
    ```python
    >>> method = Distillation("org/large_teacher", relational_weight=10.0, margin_weight=0.1)
    >>> trainer = FaceTrainer(model, args, train_dataset=people, method=method)
    ```
    """

    def __init__(
        self,
        teacher: str | Path | nn.Module | None = None,
        image_processor: FaceImageProcessor | None = None,
        loss: Literal["cosine", "l2"] = "cosine",
        weight: float = 1.0,
        relational_weight: float = 0.0,
        margin_weight: float = 1.0,
        projection: bool = False,
        column: str | None = None,
    ):
        super().__init__()
        if loss not in ("cosine", "l2"):
            raise ValueError(f"distillation: loss must be 'cosine' or 'l2', found {loss!r}.")
        weights = {"weight": weight, "relational_weight": relational_weight, "margin_weight": margin_weight}
        for name, value in weights.items():
            if value < 0:
                raise ValueError(f"distillation: {name} must be at least 0, found {value}.")
        if weight == relational_weight == 0:
            raise ValueError("distillation: with weight and relational_weight 0, the teacher teaches nothing.")
        if teacher is None and column is None:
            raise ValueError("distillation requires a teacher, or the column of the training data with its embeddings.")
        self.loss, self.column, self.uses_projection = loss, column, projection
        self.weight, self.relational_weight, self.margin_weight = weight, relational_weight, margin_weight
        self.uses_head = margin_weight > 0
        self.projection: nn.Linear | None = None
        self._name = teacher if isinstance(teacher, str | Path) else None
        self._teacher: Teacher | None = None
        self._targets: Dataset | None = None
        self._flips: list[RandomHorizontalFlip] = []
        if isinstance(teacher, nn.Module):
            self._teacher = Teacher(teacher, image_processor)

    @property
    def teacher(self) -> nn.Module | None:
        """The teacher, once loaded."""
        return None if self._teacher is None else self._teacher.model

    def setup(self, trainer: Any) -> None:
        """
        Load the teacher or its embeddings, and create the projection.

        Raises:
            ValueError: if the sizes of embeddings differ without a projection, or embeddings in a column do not work
                with the data or the augmentation.
        """
        if self.column is None or self.column not in _columns(trainer):
            self._load_teacher(trainer)
        if self.column is not None:
            self._flips = _find_flips(trainer.augment)
            self._targets = self._targets or self._find_targets(trainer)
        self._create_projection(trainer.model.config.backbone_config.embedding_size)

    def losses(self, model: nn.Module, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        target = self._embed(batch) if self._targets is None else self._look_up(batch)  # (B, D of the teacher)
        output = model(
            pixel_values=batch["pixel_values"],
            labels=batch["labels"] if self.uses_head else None,
            further=lambda embedding: self._compare(embedding, target),
        )
        losses = {"margin_softmax": self.margin_weight * output.loss} if self.uses_head else {}
        cosine = output.further.pop("teacher_cosine", None)
        if cosine is not None:
            self.observe(teacher_cosine=cosine)
        return losses | output.further

    def _compare(self, embedding: FaceEmbeddingOutput, target: Tensor) -> dict[str, Tensor]:
        """The weighted losses between the student's embeddings and the teacher's (B, D), with their mean cosine."""
        student, losses = embedding.pooler_output * embedding.norm, {}
        if self.weight:
            projected = (student if self.projection is None else self.projection(student)).float()
            cosine = F.cosine_similarity(projected, target).mean()
            losses["teacher_cosine"] = cosine
            distance = 1 - cosine if self.loss == "cosine" else F.mse_loss(projected, target)
            losses["distillation"] = self.weight * distance
        if self.relational_weight:
            difference = _similarities(student) - _similarities(target)
            losses["relational"] = self.relational_weight * difference.square().mean()
        return losses

    def _embed(self, batch: dict[str, Tensor]) -> Tensor:
        assert self._teacher is not None
        return self._teacher.embed(batch["images"]).float()

    def _look_up(self, batch: dict[str, Tensor]) -> Tensor:
        """The teacher's embeddings of a batch's images or, where augmentation has mirrored them, mirror images."""
        assert self._targets is not None
        rows = batch["rows"].cpu()
        mirrored = torch.zeros(len(rows), dtype=torch.bool)
        for flip in self._flips:
            mirrored ^= flip.mirrored
        both = torch.from_numpy(np.stack(self._targets[rows.tolist()][self.column]))  # (B, 2, D)
        return both[torch.arange(len(rows)), mirrored.long()].to(batch["images"].device, torch.float32)

    def _load_teacher(self, trainer: Any) -> None:
        if self._teacher is None and self._name is None:
            raise ValueError(
                f"The training data have no column {self.column!r} with a teacher's embeddings, only "
                f"{', '.join(_columns(trainer))}: add it with add_teacher_embeddings, or set the teacher."
            )
        if self._teacher is None:
            self._teacher = Teacher.load(self._name)
        self._teacher.model.to(trainer.args.device)

    def _find_targets(self, trainer: Any) -> Dataset:
        """The column of the training data, computed if they do not have it."""
        if not isinstance(trainer.train_dataset, FaceDataset):
            raise ValueError(
                f"distillation looks up column={self.column!r} by row, but a stream has none: leave column out, or set "
                "streaming to false."
            )
        data = trainer.train_dataset.dataset
        if self.column not in data.column_names:
            data = _embed_both(data, self._teacher, self.column, trainer.args.per_device_eval_batch_size)
        shape = getattr(data.features[self.column], "shape", ())
        if tuple(shape)[:-1] != (2,):
            raise ValueError(
                f"The column {self.column!r} must have two embeddings of each image, Array2D((2, embedding_size)), "
                f"found {data.features[self.column]}: make it with add_teacher_embeddings."
            )
        return data.select_columns(self.column).with_format("numpy")

    def _create_projection(self, student_size: int) -> None:
        if self._targets is None:
            teacher_size = self._teacher.embedding_size
        else:
            teacher_size = self._targets.features[self.column].shape[1]
        if self.uses_projection and self.projection is None:
            self.projection = nn.Linear(student_size, teacher_size, bias=False)
        if self.weight and self.projection is None and student_size != teacher_size:
            raise ValueError(
                f"The teacher's embeddings have {teacher_size} values, and the student's {student_size}: set "
                f"projection to true, or embedding_size to {teacher_size}, or weight to 0 with a relational_weight."
            )


def add_teacher_embeddings(
    dataset: Dataset,
    teacher: str | Path | nn.Module,
    image_processor: FaceImageProcessor | None = None,
    column: str = "teacher_embeddings",
    batch_size: int = 128,
) -> Dataset:
    """
    Add a column with a teacher's embeddings of each image and its mirror image, for [`Distillation`]. Save the dataset,
    for example with `to_parquet`, to compute them only once for several trainings.

    Args:
        dataset: Identity data with the column `image`.
        teacher: Folder or Hub name of a face model, or the model itself.
        image_processor: The teacher's image processor, if `teacher` is a model; otherwise it is loaded.
        column: Name of the new column, `Array2D((2, embedding_size), "float32")`: raw embeddings.
        batch_size: Number of images per forward pass.
    """
    loaded = Teacher(teacher, image_processor) if isinstance(teacher, nn.Module) else Teacher.load(teacher)
    return concatenate_datasets([dataset, _embed_both(dataset, loaded, column, batch_size)], axis=1)


def _embed_both(dataset: Dataset, teacher: Teacher, column: str, batch_size: int) -> Dataset:
    """The column with the embeddings of each image and its mirror image, as a dataset of its own."""
    found = Embedder(teacher.model, teacher.image_processor, batch_size).embed(dataset, "Embedding with the teacher")
    both = np.stack([found.original, found.flipped], axis=1)  # (N, 2, D)
    return Dataset.from_dict({column: both}, Features({column: Array2D(both.shape[1:], "float32")}))


def _columns(trainer: Any) -> list[str]:
    data = getattr(trainer.train_dataset, "dataset", trainer.train_dataset)
    return [] if data is None else list(data.features)


def _find_flips(augment: Any) -> list[RandomHorizontalFlip]:
    """The flips of an augmentation, which say which images they have mirrored."""
    steps = [] if augment is None else list(augment.steps)
    flips = [step for step in steps if isinstance(step, RandomHorizontalFlip)]
    if augment is not None and len(flips) < sum(isinstance(each, RandomHorizontalFlip) for each in augment.modules()):
        raise ValueError(
            "distillation with a column must know which images are mirrored: list flip in augmentation by itself, not "
            "inside another augmentation."
        )
    return flips


def _similarities(embeddings: Tensor) -> Tensor:
    """Cosines between all pairs of different embeddings (B, D), as (B * (B - 1),)."""
    unit = F.normalize(embeddings.float())
    cosines = unit @ unit.T
    return cosines[~torch.eye(len(unit), dtype=torch.bool, device=unit.device)]


__all__ = ["Distillation", "add_teacher_embeddings"]
