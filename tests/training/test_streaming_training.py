"""Training on a stream: the ranks' and workers' batches, going on in a first and a second pass."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from hf_face.data import FaceStream, load_identities, load_orl, split_identities, write_recordio
from hf_face.training.streaming import StreamedBatches

from .test_launch import losses as losses_of_run
from .test_launch import train

STEPS = 24  # of 16 images: one pass over 300 ends in step 19


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Thirty people's faces as RecordIO."""
    return write_recordio(split_identities(load_orl(), num_held_out=10, seed=0)[0], tmp_path_factory.mktemp("faces"))


@pytest.fixture
def make_streaming_trainer(make_trainer, folder):
    def make(**settings):
        stream = load_identities(folder, streaming=True).shuffle(seed=0, buffer_size=100)
        return make_trainer(train_dataset=stream, max_steps=STEPS, save_strategy="steps", save_steps=7, **settings)

    return make


def losses(trainer) -> list[float]:
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


@pytest.mark.parametrize(("workers", "parts"), [(0, 2), (1, 2), (3, 6)])
def test_a_stream_has_a_part_for_each_reader_and_counts_batches(tmp_path, monkeypatch, workers, parts):
    args = SimpleNamespace(
        max_steps=5,
        gradient_accumulation_steps=3,
        world_size=2,
        dataloader_num_workers=workers,
        should_save=True,
        ignore_data_skip=False,
    )
    monkeypatch.setattr(FaceStream, "state_dict", lambda self, batch: {"positions": [[0, batch]]})
    loaded = []
    monkeypatch.setattr(FaceStream, "load_state_dict", lambda self, state: loaded.append(state))
    batches = StreamedBatches(load_orl().to_iterable_dataset(), args, batch_size=4)
    assert (batches.stream.num_batches, batches.stream.num_parts, batches.stream.batch_size) == (30, parts, 4)
    batches.save(tmp_path, step=2)
    batches.load(tmp_path)
    assert loaded == [{"positions": [[0, 12]]}]
    args.ignore_data_skip = True
    batches.load(tmp_path)
    assert len(loaded) == 1


@pytest.mark.parametrize("settings", [{}, {"dataloader_num_workers": 2, "gradient_accumulation_steps": 3}])
def test_goes_on_in_the_first_and_in_the_second_pass(make_streaming_trainer, tmp_path, settings):
    whole = make_streaming_trainer(**settings)
    whole.train()
    assert whole.state.epoch == 1
    for step in (7, 21):
        checkpoint = tmp_path / "run" / f"checkpoint-{step}"
        resumed = make_streaming_trainer(output_dir=str(tmp_path / f"from {step}"), **settings)
        resumed.train(resume_from_checkpoint=str(checkpoint))
        assert losses(resumed) == losses(whole)
    positions = json.loads((checkpoint / "stream.json").read_text())["positions"]
    assert min(number for _, _, number, _ in positions) >= 1


def test_a_checkpoint_of_another_number_of_workers_is_refused_unless_data_is_not_to_be_skipped(
    make_streaming_trainer, tmp_path
):
    make_streaming_trainer().train()
    checkpoint = str(tmp_path / "run" / "checkpoint-21")
    with pytest.raises(ValueError, match=r"num_parts=1 .* with 2"):
        make_streaming_trainer(dataloader_num_workers=2).train(resume_from_checkpoint=checkpoint)
    from_the_start = make_streaming_trainer(dataloader_num_workers=2, ignore_data_skip=True)
    from_the_start.train(resume_from_checkpoint=checkpoint)
    assert from_the_start.state.global_step == STEPS


def train_on_ranks(run: Path, num_ranks: int, folder: Path, *overrides: str) -> list[float]:
    stream = ["--train_data", str(folder), "--streaming", "true", "--held_out_identities", "0"]
    settings = ["--max_steps", str(STEPS), "--margin", "arcface", "--augmentation", "[]", *stream]
    return train(run, num_ranks, *settings, *overrides)


@pytest.fixture(scope="module")
def two_ranks(tmp_path_factory, folder) -> tuple[Path, list[float]]:
    run = tmp_path_factory.mktemp("two ranks")
    return run, train_on_ranks(run, 2, folder)


def test_two_ranks_read_what_two_workers_of_one_rank_read(two_ranks, folder, tmp_path):
    half = ["--per_device_train_batch_size", "8", "--gradient_accumulation_steps", "2"]
    one = train_on_ranks(tmp_path, 1, folder, *half, "--dataloader_num_workers", "2")
    assert len(one) == STEPS
    np.testing.assert_allclose(two_ranks[1], one, atol=1e-4, rtol=0)


def test_two_ranks_go_on_in_the_second_pass(two_ranks, folder, tmp_path):
    whole, expected = two_ranks
    shutil.copytree(whole / "run" / "checkpoint-20", tmp_path / "run" / "checkpoint-20")
    assert len(losses_of_run(tmp_path)) == 20
    assert train_on_ranks(tmp_path, 2, folder) == expected
