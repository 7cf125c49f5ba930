"""Faults other than deaths: what the run says, what it leaves, and that it goes on as if nothing had happened."""

import os
import random
import re
import resource
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest
import torch
from killing import Child, live_as_ranks, live_to_the_end, seed
from looking import compare_runs, files, log
from transformers import TrainerCallback
from victims import PEOPLE, make_trainer, train, train_and_lose_a_worker, train_with_a_bad_batch

from hf_face.data import convert_to_parquet, load_identities
from hf_face.training import find_checkpoint


@pytest.fixture(scope="module")
def reference(undisturbed) -> Path:
    """The folder of a run that was not disturbed."""
    return undisturbed(train)[0]


def go_on(folder: Path, **settings) -> None:
    """Train on to the end, from the newest complete checkpoint, and save the model."""
    trainer = make_trainer(folder, **settings)
    trainer.train(resume_from_checkpoint=True)
    trainer.save_model()


class At(TrainerCallback):
    """Does something after a step."""

    def __init__(self, step: int, action):
        self.step, self.action = step, action

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == self.step:
            self.action()


# Full disks


@contextmanager
def small_disk(folder: Path, size: int) -> Iterator[None]:
    """A disk of some bytes in place of a folder."""
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder], capture_output=True)
    if mounted.returncode:
        pytest.skip(f"no disk can be mounted here: {mounted.stderr.decode().strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", folder], check=True)


def size_of(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*"))


@pytest.mark.parametrize("share", [0.1, 0.6])
def test_a_disk_is_full_while_a_checkpoint_is_saved(reference, tmp_path, share):
    """With place for two checkpoints and a part of the third."""
    size = size_of(reference / "run" / "checkpoint-12")
    with small_disk(tmp_path / "run", int((2 + share) * size) + 64_000):
        with pytest.raises(
            OSError, match=r"checkpoint-\d+ could not be saved, with [\d,]+ bytes free on its disk: .*Free"
        ):
            make_trainer(tmp_path, save_total_limit=None).train()
        found = find_checkpoint(True, tmp_path / "run")
        assert log(found) == log(reference / "run" / "checkpoint-12")[: len(log(found))]
        subprocess.run(["mount", "-o", "remount,size=100m", tmp_path / "run"], check=True)
        go_on(tmp_path)
        compare_runs(tmp_path, reference)
        assert not files(tmp_path) - files(reference)


@pytest.fixture
def limit_files():
    """`limit_files(size)` lets writers of larger files fail as on a full disk, until the test is over."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("file", ["model.safetensors", "optimizer.pt"])
def test_a_file_cannot_be_written(reference, limit_files, tmp_path, file):
    """The errors of safetensors and torch.save, which do not say what happened, name the checkpoint and the way out."""
    size = (reference / "run" / "checkpoint-12" / file).stat().st_size
    trainer = make_trainer(tmp_path)
    trainer.add_callback(At(3, partial(limit_files, size - 1000)))
    with pytest.raises(OSError, match="checkpoint-4 could not be saved"):
        trainer.train()
    limit_files(resource.RLIM_INFINITY)
    assert find_checkpoint(True, tmp_path / "run").name == "checkpoint-2"
    go_on(tmp_path)
    compare_runs(tmp_path, reference)
    assert not files(tmp_path) - files(reference)


# Damaged checkpoints


@pytest.mark.parametrize("damage", ["missing", "truncated"])
def test_no_file_of_a_checkpoint_may_be_damaged(reference, tmp_path, damage, caplog):
    draws = random.Random(seed())
    run = Path(shutil.copytree(reference / "run", tmp_path / "run"))
    newest = run / "checkpoint-12"
    names = sorted(path.name for path in newest.iterdir() if path.name != "checkpoint_files.json")
    assert len(names) >= 8
    for name in names:
        whole = (newest / name).read_bytes()
        if damage == "missing":
            (newest / name).unlink()
        else:
            os.truncate(newest / name, draws.randrange(len(whole)))
        caplog.clear()
        assert find_checkpoint("auto", run) == run / "checkpoint-10"
        assert f"not from checkpoint-12: {name if 'state.json' not in name else 'it has no complete'}" in caplog.text
        (newest / name).write_bytes(whole)
    assert find_checkpoint("auto", run) == newest


# Times


def test_the_clock_goes_backwards(reference, tmp_path, monkeypatch):
    """Which checkpoint is the newest, and which are too old to be kept, comes from their steps."""
    now, start = time.time(), time.monotonic()
    monkeypatch.setattr(time, "time", lambda: now - 1000 * (time.monotonic() - start))
    trainer = make_trainer(tmp_path)
    for step in range(2, 12, 2):
        age = 10_000 * step  # the newer, the older
        trainer.add_callback(At(step + 1, partial(set_times, tmp_path / "run" / f"checkpoint-{step}", now - age)))
    trainer.train()
    trainer.save_model()
    compare_runs(tmp_path, reference)
    kept = sorted(path.name for path in (tmp_path / "run").glob("checkpoint-*"))
    assert kept == ["checkpoint-10", "checkpoint-12"]
    set_times(tmp_path / "run" / "checkpoint-12", now - 1e6)
    assert find_checkpoint(True, tmp_path / "run").name == "checkpoint-12"


def set_times(folder: Path, at: float) -> None:
    for path in (folder, *folder.rglob("*")):
        os.utime(path, (at, at))


# Losses that are not finite


def test_two_ranks_skip_the_same_step(tmp_path):
    lives = live_as_ranks(train_with_a_bad_batch, tmp_path)
    assert [life.exitcode for life in lives] == [0, 0], (tmp_path / "tmp" / "output.txt").read_text()[-3000:]
    first, second = (torch.load(tmp_path / f"rank-{rank}.pt", weights_only=True) for rank in range(2))
    assert all(torch.equal(first[name], second[name]) and first[name].isfinite().all() for name in first)
    assert (
        "Skipped a step. The training diverged: in step 3, the loss is nan"
        in (tmp_path / "tmp" / "output.txt").read_text()
    )
    assert (tmp_path / "run" / "not_finite.jsonl").read_text().count("\n") == 1


# Data


def test_a_data_worker_dies(reference, tmp_path):
    life = Child(train_and_lose_a_worker, tmp_path).end()
    assert life.exitcode == 1
    # What torch says, the second if the worker was about to hand over a batch.
    assert re.search("DataLoader worker|Connection reset by peer", (tmp_path / "tmp" / "output.txt").read_text())
    assert find_checkpoint(True, tmp_path / "run").name == "checkpoint-4"
    live_to_the_end(partial(train, dataloader_num_workers=1), tmp_path)
    compare_runs(tmp_path, reference)


@pytest.fixture(scope="module")
def shards(tmp_path_factory) -> Path:
    """The faces in nine files; twelve batches are from the first five."""
    return convert_to_parquet(PEOPLE, tmp_path_factory.mktemp("shards"), images_per_shard=40)


def test_a_shard_disappears_in_the_middle_of_an_epoch(shards, tmp_path):
    folder = Path(shutil.copytree(shards, tmp_path / "faces"))

    def trainer(name: str):
        stream = load_identities(folder, streaming=True)
        return make_trainer(tmp_path / name, train_dataset=stream)

    whole = trainer("whole")
    whole.train()
    shard = folder / "data" / "train-00003-of-00009.parquet"
    disturbed = trainer("disturbed")
    disturbed.add_callback(At(3, partial(shard.rename, tmp_path / "gone.parquet")))
    with pytest.raises(FileNotFoundError, match=shard.name):
        disturbed.train()
    (tmp_path / "gone.parquet").rename(shard)
    resumed = trainer("disturbed")
    resumed.train(resume_from_checkpoint=True)
    last = tmp_path / "disturbed" / "run" / "checkpoint-12"
    assert log(last) == log(tmp_path / "whole" / "run" / "checkpoint-12")


# Two trainings


def test_a_second_training_is_kept_out_of_the_folder_of_a_running_one(reference, tmp_path):
    running = Child(train, tmp_path)
    tried = False
    for said in running.listen():
        if said == ("step 1", "ends") and not tried:
            tried = True
            with pytest.raises(ValueError, match=f"Another training is running in {tmp_path / 'run'}: wait for it"):
                make_trainer(tmp_path).train(resume_from_checkpoint="auto")
    assert tried and running.end().exitcode == 0
    compare_runs(tmp_path, reference)
