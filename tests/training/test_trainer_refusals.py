"""What the Trainer refuses before a step is made, by its name: data sets, images and settings."""

from io import BytesIO

import pytest
from datasets import ClassLabel, Dataset, Features, Image, Value
from PIL import Image as PillowImage
from transformers.utils import logging

from hf_face import FaceTrainingArguments


def people(num_people: int, images_each: int = 20) -> Dataset:
    """Gray squares, a shade a person."""
    images, labels = [], []
    for person in range(num_people):
        buffer = BytesIO()
        PillowImage.new("RGB", (32, 32), (10 * person,) * 3).save(buffer, "PNG")
        images += [{"bytes": buffer.getvalue(), "path": None}] * images_each
        labels += [person] * images_each
    features = Features({"image": Image(), "label": ClassLabel(names=[f"person {i}" for i in range(num_people)])})
    return Dataset.from_dict({"image": images, "label": labels}, features=features)


def test_more_people_than_the_head_knows_are_refused(make_trainer):
    with pytest.raises(ValueError, match="31 identities, but the model's head has 30"):
        make_trainer(train_dataset=people(31))


def test_a_data_set_with_one_identity_is_refused(make_trainer):
    with pytest.raises(ValueError, match="at least 2 identities are required, found 1"):
        make_trainer(train_dataset=people(1))


def test_a_label_out_of_range_is_refused(make_trainer):
    wrong = people(3).cast_column("label", Value("int64")).map(lambda row: {"label": row["label"] + 1})
    names = ClassLabel(names=["a", "b", "c"])
    features = wrong.features.copy()
    features["label"] = names
    wrong = Dataset(wrong.data.cast(features.arrow_schema), info=wrong.info.copy())
    wrong.info.features = features
    with pytest.raises(ValueError, match="label 3 in row 40 is out of range"):
        make_trainer(train_dataset=wrong)


def test_an_empty_identity_is_named(make_trainer):
    with pytest.raises(ValueError, match="identity 'person 1'"):
        make_trainer(train_dataset=people(3).filter(lambda row: row["label"] != 1))


def test_an_undecodable_image_is_named(make_trainer):
    broken = people(2).to_dict()
    broken["image"][7] = {"bytes": b"no image", "path": "seven.jpg"}
    trainer = make_trainer(train_dataset=Dataset.from_dict(broken, features=people(2).features))
    with pytest.raises(ValueError, match=r"row 7, path 'seven.jpg'"):
        trainer.train()


def test_skipped_images_are_counted_at_the_end(make_trainer, caplog):
    broken = people(2).to_dict()
    broken["image"][7] = {"bytes": b"no image", "path": "seven.jpg"}
    dataset = Dataset.from_dict(broken, features=people(2).features)
    trainer = make_trainer(train_dataset=dataset, on_bad_image="skip", max_steps=5)  # two epochs and a half
    logging.enable_propagation()
    trainer.train()
    logging.disable_propagation()
    assert f"Replaced {trainer.data_collator.num_skipped} images that could not be decoded" in caplog.text
    assert 1 <= trainer.data_collator.num_skipped <= 3


def test_a_data_set_smaller_than_a_batch_is_refused(make_trainer):
    with pytest.raises(ValueError, match="40 images, fewer than one batch of 64"):
        make_trainer(train_dataset=people(2), per_device_train_batch_size=64)


def test_evaluation_without_pairs_is_refused(make_trainer):
    with pytest.raises(ValueError, match="pass verification pairs or a protocol as eval_dataset"):
        make_trainer(eval_dataset=None).evaluate()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"ema_decay": 1.5}, "ema_decay must be between 0 and 1"),
        ({"partial_fc_sample_rate": 0.0}, "partial_fc_sample_rate must be above 0"),
        ({"bf16_full_eval": True, "fsdp": "full_shard"}, "bf16_full_eval does not work with FSDP"),
    ],
)
def test_settings_that_cannot_work_are_refused(tmp_path, settings, message):
    with pytest.raises(ValueError, match=message):
        FaceTrainingArguments(str(tmp_path), use_cpu=True, **settings)


@pytest.mark.parametrize(
    ("variable", "value", "settings", "message"),
    [
        (
            "ACCELERATE_USE_DEEPSPEED",
            "true",
            {"fp16_full_eval": True},
            "fp16_full_eval does not work with DeepSpeed.*--multi_gpu",
        ),
        ("ACCELERATE_MIXED_PRECISION", "fp16", {"shard_head": True}, "shard_head does not work with fp16"),
    ],
)
def test_a_launcher_that_settings_cannot_work_with_is_refused(
    tmp_path, monkeypatch, variable, value, settings, message
):
    monkeypatch.setenv(variable, value)
    with pytest.raises(ValueError, match=message):
        FaceTrainingArguments(str(tmp_path), use_cpu=True, **settings)


@pytest.mark.parametrize("settings", [{"shard_head": True}, {"partial_fc_sample_rate": 0.5}])
def test_one_process_for_several_gpus_is_refused(tmp_path, monkeypatch, settings):
    monkeypatch.setattr(FaceTrainingArguments, "n_gpu", 2)
    with pytest.raises(ValueError, match="one process per GPU, not one for 2 GPUs"):
        FaceTrainingArguments(str(tmp_path), use_cpu=True, **settings)
