"""Data loading with the samplers of torch and accelerate, from disk."""

import io
import pickle

import pyarrow as pa
import pytest
import torch
from accelerate.data_loader import prepare_data_loader, skip_first_batches
from datasets import Dataset, Image, Value, concatenate_datasets, load_from_disk
from torch.utils.data import DataLoader

from hf_face.data import BatchNormalize, FaceCollator, FaceDataset, decode
from hf_face.models import FaceImageProcessor


def loaded_labels(data, **kwargs) -> list[int]:
    loader = DataLoader(data, batch_size=32, collate_fn=FaceCollator(28), **kwargs)
    return torch.cat([batch["labels"] for batch in loader]).tolist()


@pytest.mark.parametrize("num_workers", [0, 2])
def test_every_row_comes_once_and_in_order(orl, num_workers):
    labels = loaded_labels(FaceDataset(orl), num_workers=num_workers)
    assert labels == [label for label in range(40) for _ in range(10)]


def test_shuffling_repeats_with_the_seed(orl):
    first, again, other = (
        loaded_labels(FaceDataset(orl), shuffle=True, generator=torch.Generator().manual_seed(seed))
        for seed in (0, 0, 1)
    )
    assert first == again
    assert first != other
    assert sorted(first) == sorted(other) == list(orl["label"])


def test_selected_and_shuffled_datasets_keep_image_and_label_together(orl):
    chosen = orl.shuffle(seed=0).select(range(50, 90))
    batch = FaceCollator(28)(FaceDataset(chosen).__getitems__(list(range(40))))
    original = FaceCollator(28)(FaceDataset(orl).__getitems__(list(range(400))))
    for image, label in zip(batch["pixel_values"], batch["labels"], strict=True):
        (found,) = torch.nonzero((original["pixel_values"] == image).flatten(1).all(1)).T
        assert label in original["labels"][found]


def test_a_row_is_not_decoded(orl):
    row = FaceDataset(orl)[0]
    assert row["label"] == 0
    assert row["image"]["bytes"].startswith(b"\x89PNG")
    assert FaceDataset(orl)[399]["label"] == 39
    for outside in (-1, 400):
        with pytest.raises(IndexError, match=f"row {outside} of 400"):
            FaceDataset(orl)[outside]


def test_two_ranks_share_the_rows_without_overlap_or_loss(orl):
    loader = DataLoader(FaceDataset(orl), batch_size=20, collate_fn=FaceCollator(28))
    seen = []
    for rank in range(2):
        shard = prepare_data_loader(loader, torch.device("cpu"), 2, rank, put_on_device=True)
        seen += [label for batch in shard for label in batch["labels"].tolist()]
    assert sorted(seen) == [label for label in range(40) for _ in range(10)]


def test_resuming_in_an_epoch_skips_the_batches_that_were_seen(orl):
    loader = DataLoader(FaceDataset(orl), batch_size=32, collate_fn=FaceCollator(28))
    loader = prepare_data_loader(loader, torch.device("cpu"), put_on_device=True)
    whole = [batch["labels"].tolist() for batch in loader]
    rest = [batch["labels"].tolist() for batch in skip_first_batches(loader, num_batches=5)]
    assert rest == whole[5:]


def test_jpeg_is_decoded_without_pillow(orl, monkeypatch):
    """If the fast decoder rejected everything, Pillow would take over, and only the speed would change."""
    faces = [image.convert("RGB") for image in orl.select(range(3))["image"]]
    buffers = [io.BytesIO() for _ in faces]
    for face, buffer in zip(faces, buffers, strict=True):
        face.save(buffer, "JPEG")
    rows = {"image": [{"bytes": buffer.getvalue(), "path": None} for buffer in buffers], "label": [0, 1, 2]}
    data = FaceDataset(Dataset.from_dict(rows).cast_column("image", Image()))
    monkeypatch.setattr(decode, "decode_with_pillow", None)
    assert FaceCollator(112)(data.__getitems__([2, 0]))["labels"].tolist() == [2, 0]


def test_rows_are_found_in_whichever_shard_they_are(orl):
    joined = concatenate_datasets([orl.select(range(7)), orl.select(range(20, 30)), orl.select(range(390, 400))])
    batch = FaceCollator(28)(FaceDataset(joined).__getitems__([26, 6, 7, 16, 17, 0]))
    expected = FaceCollator(28)(FaceDataset(orl).__getitems__([399, 6, 20, 29, 390, 0]))
    assert torch.equal(batch["pixel_values"], expected["pixel_values"])
    assert batch["labels"].tolist() == expected["labels"].tolist() == [39, 0, 2, 2, 39, 0]


@pytest.mark.parametrize("binary", [pa.binary(), pa.large_binary()])
def test_images_are_found_in_a_slice_with_gaps(orl, tmp_path, binary):
    """The offsets of an Arrow slice count from the start of the original array, and null takes no bytes."""
    faces = orl.cast_column("image", Image(decode=False))[:6]["image"]
    encoded = pa.array([None if i == 3 else face["bytes"] for i, face in enumerate(faces)], binary)
    paths = pa.array([str(tmp_path / "face.png") if i == 3 else None for i in range(6)])
    orl[3]["image"].save(tmp_path / "face.png")
    images = pa.StructArray.from_arrays([encoded, paths], ["bytes", "path"]).slice(2)
    data = FaceDataset(Dataset(pa.table({"image": images, "label": [2, 3, 4, 5]})))
    batch = FaceCollator(112)(data.__getitems__([3, 1, 0, 2]))
    expected = FaceCollator(112)(FaceDataset(orl).__getitems__([5, 3, 2, 4]))
    assert torch.equal(batch["pixel_values"], expected["pixel_values"])


def test_labels_are_int64_however_they_are_stored(orl):
    small = orl.select([0, 399]).cast_column("label", Value("int32"))
    labels = FaceCollator(28)(FaceDataset(small).__getitems__([1, 0]))["labels"]
    assert labels.tolist() == [39, 0]
    assert labels.dtype == torch.int64


def test_no_rows_at_all(orl):
    assert len(FaceDataset(Dataset.from_dict(orl[:0], features=orl.features))) == 0


def test_a_worker_that_is_not_forked_is_sent_no_images(orl, tmp_path):
    orl.save_to_disk(tmp_path)
    data = FaceDataset(load_from_disk(tmp_path))
    sent = pickle.dumps(data)
    assert len(sent) < 20_000  # the images are 3.6 MB
    batch, expected = (FaceCollator(28)(each.__getitems__([5])) for each in (pickle.loads(sent), data))
    assert torch.equal(batch["pixel_values"], expected["pixel_values"])


def test_images_in_files_of_their_own_are_read(orl, tmp_path):
    path = tmp_path / "face.png"
    orl[3]["image"].save(path)
    in_files = (
        orl.select([3, 3])
        .cast_column("image", Image(decode=False))
        .map(lambda row, i: {"image": {"bytes": None, "path": str(path)} if i else row["image"]}, with_indices=True)
    )
    images = FaceCollator(112)(FaceDataset(in_files.cast_column("image", Image())).__getitems__([0, 1]))["pixel_values"]
    assert torch.equal(images[0], images[1])


@pytest.mark.parametrize("channel_order", ["rgb", "bgr"])
def test_normalization_is_that_of_the_image_processor(channel_order):
    images = torch.randint(0, 256, (4, 3, 112, 112), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    mean, std = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
    processor = FaceImageProcessor(image_mean=mean, image_std=std, channel_order=channel_order)
    expected = processor(list(images), return_tensors="pt")["pixel_values"]
    as_decoded = images.contiguous(memory_format=torch.channels_last)
    normalized = BatchNormalize(mean, std, channel_order)(as_decoded)
    assert normalized.dtype == torch.float32
    assert normalized.is_contiguous()
    torch.testing.assert_close(normalized, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    "settings",
    [
        {"do_rescale": False},
        {"do_normalize": False},
        {"rescale_factor": 1 / 128},
        {"do_rescale": False, "do_normalize": False},
    ],
    ids=str,
)
def test_an_image_processors_settings_are_followed(settings):
    images = torch.randint(0, 256, (2, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    processor = FaceImageProcessor(image_mean=[0.4, 0.5, 0.6], image_std=[0.2, 0.3, 0.4], do_resize=False, **settings)
    expected = processor(list(images), return_tensors="pt")["pixel_values"].float()
    normalize = BatchNormalize.from_image_processor(processor)
    torch.testing.assert_close(normalize(images), expected, rtol=1e-5, atol=1e-5)
    assert not normalize.state_dict()  # checkpoints hold weights only


def test_an_unknown_channel_order_is_refused():
    with pytest.raises(ValueError, match="'rgb' or 'bgr', found 'hsv'"):
        BatchNormalize([0.5] * 3, [0.5] * 3, "hsv")
