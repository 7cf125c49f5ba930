"""
Work that is killed at random moments: what is left is whole, and what goes on from it ends as if nothing had happened.

FAULT_KILLS says how many processes are killed (20), and FAULT_SEED when; the seed is printed.
"""

import random
import signal
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import victims
from hub_server import HubServer
from killing import Life, kill_during, live_as_ranks, live_to_the_end, num_kills, seed
from looking import check_run, compare_runs, files, same_files
from tally import tally

from hf_face import IResNetConfig, IResNetModel
from hf_face.convert import export_checkpoint
from hf_face.training import find_checkpoint

KILLS_PER_RUN = 2  # before it is led to its end


@pytest.fixture(scope="module")
def draws() -> random.Random:
    return random.Random(seed())


@pytest.fixture
def endure(undisturbed, draws, tmp_path_factory):
    """
    Kill work in a stage, its share of all times and some times in each folder, and lead it to its end there.

    `check(folder, reference, life)` looks at what a death has left, and `compare(folder, reference)` at the end.
    """

    def run(fault: str, share: float, stage: str, work: Callable, check: Callable, compare: Callable) -> None:
        reference, life = undisturbed(work)
        durations = life.durations(stage)
        found = tally(fault)
        while found.kills < num_kills(share):
            folder = tmp_path_factory.mktemp(stage)
            for _ in range(KILLS_PER_RUN):
                life = kill_during(stage, work, folder, durations, draws)
                if not life.killed:  # it was faster
                    assert life.exitcode == 0, output(folder)
                    break
                found.kills += 1
                check(folder, reference, life)
                found.survived += 1
            live_to_the_end(work, folder)
            found.runs += 1
            compare(folder, reference)
            found.equal += 1
            leftovers = files(folder) - files(reference)
            found.leftovers += len(leftovers)
            assert not leftovers

    return run


def output(folder: Path) -> str:
    return (folder / "tmp" / "output.txt").read_text()[-3000:]


# Training


@pytest.mark.parametrize(
    ("fault", "stage", "share"),
    [
        ("SIGKILL during training", "training", 0.2),
        ("SIGKILL during evaluation", "evaluation", 0.1),
        ("SIGKILL while a checkpoint is written", "checkpoint", 0.2),
    ],
)
def test_a_training_is_killed(endure, fault, stage, share):
    endure(fault, share, stage, victims.train, check_run, compare_runs)


def test_a_scheduler_ends_a_training(undisturbed, draws, tmp_path_factory):
    """SIGTERM to the process and its data worker: the step is finished and saved, and the exit status is 75."""
    work = partial(victims.train, dataloader_num_workers=1)
    reference, life = undisturbed(work)
    durations = [0.8 * duration for duration in life.durations("training")]
    found = tally("SIGTERM during training")
    while found.kills < num_kills(0.1):
        folder = tmp_path_factory.mktemp("scheduler")
        life = kill_during("training", work, folder, durations, draws, signal.SIGTERM)
        if life.exitcode == 75:
            found.kills += 1
            checkpoint = find_checkpoint(True, folder / "run")
            assert checkpoint.name == f"checkpoint-{life.last_step()}", output(folder)
            assert f"Stopped by a signal after step {life.last_step()}" in output(folder)
            found.survived += 1
        else:
            assert life.exitcode in (0, -signal.SIGTERM), output(folder)  # it was faster
        live_to_the_end(work, folder)
        found.runs += 1
        compare_runs(folder, reference)
        found.equal += 1
        checkpoints = {path.name for path in (folder / "run").glob("checkpoint-*")}
        assert len(checkpoints) == 2 and "checkpoint-12" in checkpoints
        leftovers = {path.name for path in (folder / "run").iterdir()} - checkpoints
        leftovers -= {path.name for path in (reference / "run").iterdir()}
        found.leftovers += len(leftovers)
        assert not leftovers


def test_one_rank_of_two_is_killed(draws, tmp_path_factory):
    reference = tmp_path_factory.mktemp("two_ranks")
    lives = live_as_ranks(victims.train_as_rank, reference)
    assert [life.exitcode for life in lives] == [0, 0], output(reference)
    duration = lives[0].durations("training")[0]
    found = tally("SIGKILL of one rank of two")
    while found.kills < num_kills(0.05):
        folder = tmp_path_factory.mktemp("one_rank")
        victim = draws.randrange(2)
        lives = live_as_ranks(victims.train_as_rank, folder, victim, draws.uniform(0, duration))
        if lives[victim].killed:
            found.kills += 1
            assert lives[1 - victim].exitcode != 0, "the other one went on alone"
            check_run(folder, reference, lives[0])
            found.survived += 1
        assert [life.exitcode for life in live_as_ranks(victims.train_as_rank, folder)] == [0, 0], output(folder)
        found.runs += 1
        compare_runs(folder, reference)
        found.equal += 1
        leftovers = files(folder) - files(reference)
        found.leftovers += len(leftovers)
        assert not leftovers


def test_ranks_stop_together(tmp_path):
    """A signal that only one of them has received stops both, after the same step."""
    first, second = live_as_ranks(victims.train_as_rank, tmp_path, victim=1, moment=0.05, number=signal.SIGTERM)
    assert (first.exitcode, second.exitcode) == (75, 75), output(tmp_path)
    assert first.last_step() == second.last_step() < 12
    assert find_checkpoint(True, tmp_path / "run").name == f"checkpoint-{first.last_step()}"


# Conversion and embedding


@pytest.fixture(scope="module")
def foreign(tmp_path_factory) -> Path:
    """A checkpoint of another project, of some MB."""
    config = IResNetConfig(depths=[1, 1, 1, 1], hidden_sizes=[64, 128, 128, 256], stem_size=64, embedding_size=64)
    path = tmp_path_factory.mktemp("foreign") / "backbone.pth"
    export_checkpoint(IResNetModel(config), "arcface_torch", path)
    return path


def test_a_conversion_of_a_model_is_killed(endure, foreign):
    def check(folder: Path, reference: Path, life: Life) -> None:
        if (folder / "model" / "config.json").exists():  # without which nothing is loaded
            compare(folder, reference)

    def compare(folder: Path, reference: Path) -> None:
        same_files(reference, folder, "model/*.*")

    work = partial(victims.convert_model, checkpoint=foreign)
    endure("SIGKILL during the conversion of a model", 0.1, "conversion", work, check, compare)


def test_a_conversion_of_data_is_killed(endure):
    def check(folder: Path, reference: Path, life: Life) -> None:
        same_files(folder, reference, "data/data/*.parquet")

    def compare(folder: Path, reference: Path) -> None:
        same_files(reference, folder, "data/**/*.*")

    endure("SIGKILL during the conversion of data", 0.1, "conversion", victims.convert_data, check, compare)


def test_an_embedding_is_killed(endure, trained):
    def check(folder: Path, reference: Path, life: Life) -> None:
        same_files(folder, reference, "embeddings/**/*.parquet")
        same_files(folder, reference, "embeddings.parquet")
        for shard in folder.glob("*.shards/*/*.parquet"):
            assert pq.read_metadata(shard).num_rows == 4

    def compare(folder: Path, reference: Path) -> None:
        same_files(reference, folder, "**/*.parquet")

    work = partial(victims.embed, model=trained)
    endure("SIGKILL during embedding", 0.1, "embedding", work, check, compare)


# Pushing


@pytest.fixture(scope="module")
def own_hub(tmp_path_factory):
    with HubServer(tmp_path_factory.mktemp("hub")) as server:
        yield server


@pytest.mark.parametrize(("stage", "share"), [("pushing", 0.1), ("training", 0.05)])
def test_a_push_is_killed(endure, trained, own_hub, stage, share):
    """A repository has nothing of a push, or all of it; the checkpoints of a training that pushes are as without."""
    parts = {"config.json", "model.safetensors", "README.md"}

    def published(folder: Path) -> dict[str, str]:
        repo = own_hub.store.repos.get(("model", f"org/{folder.name}"))
        return {} if repo is None else {name: file.oid for name, file in repo.commit("main").files.items()}

    def check(folder: Path, reference: Path, life: Life) -> None:
        found = published(folder).keys() - {".gitattributes"}
        assert not found or parts < found
        if stage == "training":
            check_run(folder, reference, life)

    def compare(folder: Path, reference: Path) -> None:
        # A run that is killed after its last step is over when it is started again: it pushes no further checkpoint.
        found, expected = published(folder), published(reference)
        assert without_checkpoint(found) == without_checkpoint(expected) > parts
        assert found["model.safetensors"] == expected["model.safetensors"]

    def without_checkpoint(names) -> set[str]:
        return {name for name in names if not name.startswith("last-checkpoint/")}

    server = {"url": own_hub.url, "token": own_hub.token}
    pushing = partial(victims.push, model=trained, **server)
    work = pushing if stage == "pushing" else partial(victims.train_and_push, **server)
    fault = "SIGKILL during a push" if stage == "pushing" else "SIGKILL during a training that pushes"
    endure(fault, share, stage, work, check, compare)
