import logging
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from datasets import ClassLabel, Dataset, Features, Image, Value
from torch.utils.data import DataLoader
from transformers.utils import logging as transformers_logging

from hf_face.data import FaceCollator, FaceDataset, UndecodableImageError, collator


@pytest.fixture
def with_bad_images(orl) -> Dataset:
    """20 ORL faces in order, except that row 7 is not an image and row 12 is null; every row has a `file_name`."""
    rows = [dict(row) for row in orl.select(range(20)).cast_column("image", Image(decode=False))]
    for i, row in enumerate(rows):
        row["image"]["path"] = f"{i}.png"
        row["file_name"] = f"shard-3/{i}.png"
    rows[7]["image"]["bytes"] = b"not an image"
    rows[12]["image"] = None
    features = Features({"image": Image(), "label": ClassLabel(num_classes=40), "file_name": Value("string")})
    return Dataset.from_list(rows, features=features)


@pytest.fixture
def warnings(caplog):
    """The library's warnings; its loggers do not propagate by default."""
    transformers_logging.enable_propagation()
    with caplog.at_level(logging.WARNING):
        yield caplog
    transformers_logging.disable_propagation()


def test_a_batch_is_what_the_rows_say(orl):
    rows = [399, 0, 57]
    batch = FaceCollator(112)(FaceDataset(orl).__getitems__(rows))
    assert batch["pixel_values"].shape == (3, 3, 112, 112)
    assert batch["pixel_values"].dtype == torch.uint8
    assert batch["pixel_values"].is_contiguous(memory_format=torch.channels_last)  # as decoders write
    assert batch["labels"].tolist() == [39, 0, 5]
    assert batch["labels"].dtype == torch.int64
    for image, row in zip(batch["pixel_values"], rows, strict=True):
        expected = np.asarray(orl[row]["image"].convert("RGB").resize((112, 112), 2)).astype(int)  # 2: bilinear
        assert np.abs(image.permute(1, 2, 0).numpy() - expected).max() <= 1


def test_unequal_sizes_are_resized_and_equal_ones_copied(orl):
    face = orl[0]["image"].convert("RGB")  # 92 x 112
    square = face.resize((112, 112))
    rows = [{"image": face, "label": 0}, {"image": square, "label": 1}]
    batch = FaceCollator(112)(rows)
    assert np.array_equal(batch["pixel_values"][1].permute(1, 2, 0), np.asarray(square))
    assert batch["pixel_values"][0].float().mean() == pytest.approx(np.asarray(face).mean(), abs=1)


@pytest.mark.usefixtures("no_waiting_for_workers")
@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_bad_image_stops_with_its_name(with_bad_images, num_workers):
    loader = DataLoader(FaceDataset(with_bad_images), 5, num_workers=num_workers, collate_fn=FaceCollator(112))
    batches = iter(loader)
    next(batches)
    with pytest.raises(UndecodableImageError, match=r"row 7, path '7.png', file_name 'shard-3/7.png': .* 12 bytes"):
        next(batches)


def test_a_missing_image_stops_with_its_name(with_bad_images):
    with pytest.raises(UndecodableImageError, match=r"row 12, file_name 'shard-3/12.png': image is missing.*skip"):
        FaceCollator(112)(FaceDataset(with_bad_images).__getitems__([3, 12]))


def test_a_bad_image_in_a_stream_is_named(with_bad_images):
    stream = with_bad_images.to_iterable_dataset().cast_column("image", Image(decode=False))
    with pytest.raises(UndecodableImageError, match=r"image 7 of the batch, path '7.png', file_name 'shard-3/7.png'"):
        next(iter(DataLoader(stream, batch_size=10, collate_fn=FaceCollator(112))))


def test_the_row_named_is_that_of_the_shuffled_dataset(with_bad_images):
    shuffled = with_bad_images.shuffle(seed=0)
    row = list(shuffled["file_name"]).index("shard-3/7.png")
    with pytest.raises(UndecodableImageError, match=f"row {row}, path '7.png'"):
        FaceCollator(112)(FaceDataset(shuffled).__getitems__([row]))


def test_skipping_keeps_the_batch_whole(with_bad_images, warnings):
    collator = FaceCollator(112, on_bad_image="skip")
    data = FaceDataset(with_bad_images)
    batch = collator(data.__getitems__([5, 7, 8, 12]))  # the last bad one takes the first good one
    good = collator(data.__getitems__([5, 8, 8, 5]))
    assert torch.equal(batch["pixel_values"], good["pixel_values"])
    assert torch.equal(batch["labels"], good["labels"])
    assert collator.num_skipped == 2
    assert "skipped row 7, path '7.png'" in warnings.text
    assert "skipped row 12" in warnings.text


@pytest.mark.parametrize("num_workers", [0, 1, 2])
def test_workers_count_what_they_skip(with_bad_images, num_workers):
    collator = FaceCollator(112, on_bad_image="skip")
    loader = DataLoader(FaceDataset(with_bad_images), 4, num_workers=num_workers, collate_fn=collator)
    assert [len(batch["labels"]) for batch in loader] == [4] * 5
    assert collator.num_skipped == 2
    list(loader)
    assert collator.num_skipped == 4


@pytest.mark.parametrize("number", [0, 1, collator.MAX_WORKERS + 1])
def test_a_worker_of_any_number_counts(with_bad_images, monkeypatch, number):
    monkeypatch.setattr(collator, "get_worker_info", lambda: SimpleNamespace(id=number))
    skipping = FaceCollator(112, on_bad_image="skip")
    skipping(FaceDataset(with_bad_images).__getitems__([5, 7]))
    assert skipping.num_skipped == 1


def test_a_batch_without_a_good_image_is_an_error_even_when_skipping(with_bad_images):
    with pytest.raises(UndecodableImageError, match="none of the 2 images"):
        FaceCollator(112, on_bad_image="skip")(FaceDataset(with_bad_images).__getitems__([7, 12]))


@pytest.mark.parametrize("label", [40, -1, None])
def test_a_label_out_of_range_is_named(orl, label):
    rows = [{"image": orl[0]["image"], "label": 39, "file_name": "a.jpg"}, {"image": orl[1]["image"], "label": label}]
    with pytest.raises(ValueError, match=f"image 1 of the batch: label {label} is out of range, expected 0 to 39"):
        FaceCollator(112, num_identities=40)(rows)


def test_labels_are_free_when_their_number_is_not_known(orl):
    assert FaceCollator(112)([{"image": orl[0]["image"], "label": 10**6}])["labels"].tolist() == [10**6]


def test_an_unknown_way_with_bad_images_is_refused():
    with pytest.raises(ValueError, match="'raise' or 'skip', found 'ignore'"):
        FaceCollator(112, on_bad_image="ignore")
