"""A teacher's embeddings as targets of a student."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from datasets import Array2D, Array3D, Dataset, Features, Image, concatenate_datasets
from safetensors.torch import load_file
from torch.nn.parallel import DistributedDataParallel
from transformers import AutoModel

from hf_face import FaceImageProcessor, FaceRecognitionConfig, FaceRecognitionModel
from hf_face.data import FaceCollator, FaceDataset
from hf_face.training.divergence import NumberedCollator
from hf_face.training.methods import Distillation, add_teacher_embeddings


@pytest.fixture(scope="module")
def teacher_folder(tmp_path_factory):
    """A small face model with another size of input and embedding, normalization and channel order than the student."""
    torch.manual_seed(1)
    sizes = {"img_size": 48, "patch_size": 16, "depth": 1, "embed_dim": 24, "num_heads": 2}
    config = {"model_type": "timm_face", "architecture": "vit_tiny_patch16_224", "model_args": sizes, "image_size": 48}
    model = FaceRecognitionModel(FaceRecognitionConfig(backbone_config={**config, "embedding_size": 12})).backbone
    folder = tmp_path_factory.mktemp("teacher")
    model.save_pretrained(folder)
    size, mean, std = {"height": 48, "width": 48}, [0.4, 0.5, 0.6], [0.2, 0.3, 0.4]
    processor = FaceImageProcessor(size=size, image_mean=mean, image_std=std, channel_order="bgr", resample=3)
    processor.save_pretrained(folder)
    return folder


def expected_embeddings(folder, images):
    model, processor = AutoModel.from_pretrained(folder).eval(), FaceImageProcessor.from_pretrained(folder)
    with torch.no_grad():
        output = model(**processor(images, return_tensors="pt"))
    return output.pooler_output * output.norm


def seen_batches(trainer, number: int = 1):
    """Batches of a trainer as its method receives them."""
    batches = iter(trainer.get_train_dataloader())
    return [trainer.prepare_batch(next(batches)) for _ in range(number)]


def test_the_teacher_sees_the_augmented_images_as_its_own_processor_makes_them(make_trainer, teacher_folder):
    trainer = make_trainer(method=Distillation(str(teacher_folder), projection=True))
    (batch,) = seen_batches(trainer)
    got = trainer.method._embed(batch)
    torch.testing.assert_close(got, expected_embeddings(teacher_folder, batch["images"]), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("loss", ["cosine", "l2"])
def test_the_losses_are_the_formulas(make_trainer, teacher_folder, loss):
    method = Distillation(
        str(teacher_folder), loss=loss, weight=2, relational_weight=3, margin_weight=0.5, projection=True
    )
    trainer = make_trainer(method=method)
    (batch,) = seen_batches(trainer)
    target = method._embed(batch)
    model = trainer.model.eval()
    losses = method.losses(model, batch)
    output = model(batch["pixel_values"], labels=batch["labels"])
    raw = output.pooler_output * output.norm
    student = method.projection(raw)
    distance = F.mse_loss(student, target) if loss == "l2" else (1 - F.cosine_similarity(student, target)).mean()
    pairs = [(i, j) for i in range(len(raw)) for j in range(len(raw)) if i != j]
    first, second = ([pair[k] for pair in pairs] for k in (0, 1))
    gaps = F.cosine_similarity(raw[first], raw[second]) - F.cosine_similarity(target[first], target[second])
    torch.testing.assert_close(losses["distillation"], 2 * distance)
    torch.testing.assert_close(losses["relational"], 3 * gaps.square().mean())
    torch.testing.assert_close(losses["margin_softmax"], 0.5 * output.loss)
    torch.testing.assert_close(
        method.take_observed()["teacher_cosine"], F.cosine_similarity(student, target).mean().detach()
    )


def test_the_projection_is_trained_and_dropped_and_the_teacher_is_neither_trained_nor_saved(
    make_trainer, teacher_folder, tmp_path
):
    method = Distillation(str(teacher_folder), projection=True)
    trainer = make_trainer(method=method, max_steps=2, eval_dataset=None, save_strategy="steps", save_steps=2)
    projection = method.projection.weight.detach().clone()
    teacher = {name: weight.clone() for name, weight in method.teacher.state_dict().items()}
    trainer.train()
    assert not torch.equal(method.projection.weight, projection)
    assert not method.teacher.training
    assert not any(parameter.requires_grad for parameter in method.teacher.parameters())
    assert all(torch.equal(weight, teacher[name]) for name, weight in method.teacher.state_dict().items())
    saved = load_file(tmp_path / "run" / "checkpoint-2" / "model.safetensors")
    assert {name for name in saved if name.startswith("method")} == {"method.projection.weight"}
    assert len(saved) == len(trainer.model.backbone.state_dict()) + len(trainer.model.head.state_dict()) + 1
    trainer.save_model()
    assert load_file(tmp_path / "run" / "model.safetensors").keys() == trainer.model.backbone.state_dict().keys()


def test_without_labels_the_head_is_frozen_and_labels_are_not_read(make_trainer, teacher_folder):
    method = Distillation(str(teacher_folder), weight=0, relational_weight=1, margin_weight=0)
    trainer = make_trainer(method=method, max_steps=1, eval_dataset=None)
    assert not trainer.model.head.weight.requires_grad
    (batch,) = seen_batches(trainer)
    assert method.losses(trainer.model, {**batch, "labels": None}).keys() == {"relational"}
    trainer.train()


@pytest.mark.parametrize("augmentation", ["flip", ["flip", {"color_jitter": {"p": 1.0}}], None])
def test_embeddings_in_a_column_are_those_of_the_image_that_is_seen(make_trainer, teacher_folder, faces, augmentation):
    data = add_teacher_embeddings(faces[0], teacher_folder)
    method = Distillation(column="teacher_embeddings", projection=True)
    trainer = make_trainer(method=method, train_dataset=data, augmentation=augmentation, eval_dataset=None)
    assert method.teacher is None
    batches = seen_batches(trainer, 2)
    flips = trainer.augment.steps[0].mirrored if augmentation else torch.zeros(16, dtype=torch.bool)
    assert 0 < flips.sum() < 16 or augmentation is None
    clean = FaceCollator(48)([data[row] for row in batches[-1]["rows"].tolist()])["pixel_values"].contiguous()
    clean[flips] = clean[flips].flip(-1)
    got = method._look_up(batches[-1])
    torch.testing.assert_close(got, expected_embeddings(teacher_folder, clean), atol=1e-4, rtol=1e-4)


def test_a_column_that_the_data_lack_is_computed_once(make_trainer, teacher_folder):
    method = Distillation(str(teacher_folder), column="teacher_embeddings", projection=True)
    trainer = make_trainer(method=method, max_steps=1, eval_dataset=None)
    targets = method._targets
    method.setup(trainer)
    assert method._targets is targets
    assert len(targets) == len(trainer.train_dataset)
    trainer.train()


def test_what_cannot_be_distilled_is_refused_before_training(make_trainer, teacher_folder, faces, tmp_path):
    teacher = str(teacher_folder)
    with pytest.raises(ValueError, match="12 values, and the student's 16: set projection to true"):
        make_trainer(method=Distillation(teacher))
    make_trainer(method=Distillation(teacher, weight=0, relational_weight=1))  # similarities have no size
    with pytest.raises(ValueError, match="requires a teacher"):
        Distillation()
    with pytest.raises(ValueError, match="'cosine' or 'l2', found 'l1'"):
        Distillation(teacher, loss="l1")
    with pytest.raises(ValueError, match="teaches nothing"):
        Distillation(teacher, weight=0)
    with pytest.raises(ValueError, match="margin_weight must be at least 0"):
        Distillation(teacher, margin_weight=-1)
    with pytest.raises(ValueError, match="requires its image_processor"):
        Distillation(AutoModel.from_pretrained(teacher))
    with pytest.raises(FileNotFoundError, match="no such file or folder: nowhere/at/all"):
        make_trainer(method=Distillation("nowhere/at/all"))
    with pytest.raises(ValueError, match=r"no column 'targets' .* only image, label"):
        make_trainer(method=Distillation(column="targets"))
    with pytest.raises(ValueError, match="a stream has none"):
        make_trainer(method=Distillation(teacher, column="targets"), train_dataset=faces[0].to_iterable_dataset())
    with pytest.raises(ValueError, match="not inside another augmentation"):
        make_trainer(
            method=Distillation(teacher, column="targets"),
            augmentation=[{"random_choice": ["flip", {"color_jitter": {}}]}],
        )
    with pytest.raises(ValueError, match=r"must have two embeddings .* found ClassLabel"):
        make_trainer(method=Distillation(column="label"))


@pytest.mark.parametrize("shape", [(3, 12), (2, 4, 4)])
def test_a_column_has_two_embeddings_of_each_image(faces, shape):
    feature = (Array2D if len(shape) == 2 else Array3D)(shape, "float32")
    column = Dataset.from_dict({"targets": np.zeros((1, *shape), dtype=np.float32)}, Features({"targets": feature}))
    data = FaceDataset(concatenate_datasets([faces[0].select([0]), column], axis=1))
    with pytest.raises(ValueError, match=r"The column 'targets' must have two embeddings of each image, Array2D"):
        Distillation(column="targets")._find_targets(SimpleNamespace(train_dataset=data))


def test_rows_of_images_that_are_skipped_become_those_of_their_replacements(faces):
    people = faces[0].cast_column("image", Image(decode=False))
    broken = {"image": {"bytes": b"broken", "path": None}, "label": 0}
    data = concatenate_datasets([Dataset.from_list([broken], people.features), people.select(range(2))])
    batch = NumberedCollator(8, 30, "skip")(FaceDataset(data).__getitems__([0, 2, 1]))
    assert batch["rows"].tolist() == [2, 2, 1]


@pytest.fixture
def one_rank(tmp_path):
    dist.init_process_group("gloo", store=dist.FileStore(str(tmp_path / "store"), 1), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def test_data_parallelism_sees_that_the_projection_is_used(make_trainer, teacher_folder, one_rank):
    """As `Trainer` wraps models, whose unused parameters DDP looks for in the output of `forward`."""
    method = Distillation(str(teacher_folder), projection=True)
    trainer = make_trainer(method=method)
    wrapped = DistributedDataParallel(trainer.model, find_unused_parameters=True)
    for batch in seen_batches(trainer, 2):
        sum(method.losses(wrapped, batch).values()).backward()
    assert method.projection.weight.grad.abs().sum() > 0
