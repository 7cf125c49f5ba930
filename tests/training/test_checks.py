"""Data and models that a trainer cannot train are refused, and nothing else."""

from types import SimpleNamespace

import pytest
from datasets import ClassLabel, Dataset, Features, Image
from torch import nn

from hf_face.training.checks import check_model, check_model_source, check_training_data


def people(num_images: int, num_people: int = 2) -> Dataset:
    features = Features({"image": Image(), "label": ClassLabel(names=[str(i) for i in range(num_people)])})
    rows = {
        "image": [{"bytes": b"an image", "path": None}] * num_images,
        "label": [i % num_people for i in range(num_images)],
    }
    return Dataset.from_dict(rows, features=features)


def check(num_images: int, batch_size: int = 4, drop_last=True, world_size=1, batch_norm=True, identities=2) -> None:
    args = SimpleNamespace(
        train_batch_size=batch_size,
        per_device_train_batch_size=batch_size,
        world_size=world_size,
        dataloader_drop_last=drop_last,
    )
    model = nn.Sequential(nn.BatchNorm1d(2) if batch_norm else nn.Identity())
    model.config = SimpleNamespace(num_identities=identities)
    check_training_data(people(num_images), model, args)


@pytest.mark.parametrize(
    "settings",
    [
        {"num_images": 4},
        {"num_images": 5},
        {"num_images": 2, "drop_last": False},
        {"num_images": 6, "drop_last": False},
        {"num_images": 5, "drop_last": False, "batch_norm": False},
        {"num_images": 9, "drop_last": False, "world_size": 2},
        {"num_images": 5, "batch_size": 1, "batch_norm": False},
        {"num_images": 5, "batch_size": 1, "world_size": 2},
        {"num_images": 6, "batch_size": 2},
        {"num_images": 8, "world_size": 2},
        {"num_images": 4, "identities": 3},
    ],
)
def test_what_is_trained(settings):
    check(**settings)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_images": 3}, "has 3 images, fewer than one batch of 4"),
        ({"num_images": 7, "world_size": 2}, "has 7 images, fewer than one batch of 8"),
        ({"num_images": 5, "drop_last": False}, "With 5 images, per_device_train_batch_size=4 makes a batch of one"),
        ({"num_images": 5, "batch_size": 1}, "With 5 images, per_device_train_batch_size=1 makes a batch of one"),
        ({"num_images": 4, "identities": 1}, "has 2 identities, but the model's head has 1"),
    ],
)
def test_what_is_not(settings, message):
    with pytest.raises(ValueError, match=message):
        check(**settings)


@pytest.mark.parametrize(
    ("data", "number"), [(None, "..."), (people(2), 2), (people(2).remove_columns("label"), "...")]
)
def test_a_model_without_a_head_is_told_what_it_lacks(data, number):
    with pytest.raises(ValueError, match=rf"found Linear: pass .*\(backbone, num_identities={number}\)"):
        check_model(nn.Linear(1, 1), data)


@pytest.mark.parametrize(
    ("model", "model_init", "optimizers", "message"),
    [
        (None, None, None, "requires either model= or model_init="),
        ("model", "init", None, "requires either model= or model_init="),
        (None, "init", ("optimizer", None), "optimizers= hold the weights of one model"),
        (None, "init", (None, None), None),
        (None, "init", None, None),
        ("model", None, ("optimizer", None), None),
        ("model", None, None, None),
    ],
)
def test_a_model_has_one_source(model, model_init, optimizers, message):
    if message is None:
        check_model_source(model, model_init, optimizers)
        return
    with pytest.raises(ValueError, match=message):
        check_model_source(model, model_init, optimizers)
