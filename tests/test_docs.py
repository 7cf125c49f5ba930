"""The code of the README and of the pages in docs/ runs, and the commands on them are understood."""

import argparse
import pickle
import re
import runpy
import shlex
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from datasets import Image
from transformers import AutoModel, HfArgumentParser

from hf_face import FaceImageProcessor, IResNetConfig, IResNetModel, TimmFaceConfig, TimmFaceModel, export_checkpoint
from hf_face.cli import run_subcommand
from hf_face.cli.train import main as train
from hf_face.data import load_orl, make_verification_pairs, select_identities, write_recordio
from hf_face.hub import Evaluation, FaceModelCardData, TrainingData, write_model_folder
from hf_face.registry import REGISTRIES

pytestmark = pytest.mark.usefixtures("registries_as_before")

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"(<!-- not run: [^\n]+ -->\n)?^( *)```(\w+)\n(.*?)^ *```", flags=re.MULTILINE | re.DOTALL)


def blocks(page: Path, language: str) -> list[str]:
    """The page's blocks in a language, without those marked as not to be run."""
    found = BLOCK.findall(page.read_text(encoding="utf-8"))
    return [text for not_run, _, block_language, text in found if block_language == language and not not_run]


@pytest.fixture(scope="session")
def workplace(tmp_path_factory) -> Path:
    """A folder with everything that pages name: a trained model, photographs, crops, pairs, another project's file."""
    folder = tmp_path_factory.mktemp("workplace")
    faces = select_identities(load_orl(), num_identities=6)
    write_demo(folder / "outputs" / "demo")
    write_people(faces, folder / "crops", "png", size=(92, 112))
    write_people(faces, folder / "photographs", "jpg", size=(276, 336))
    write_recordio(faces, folder / "faces_emore")
    for name in ("lfw", "cfp_fp", "agedb_30"):
        write_bin(faces, folder / "faces_emore" / f"{name}.bin")
    write_bin(select_identities(load_orl(), num_identities=24), folder / "lfw.bin")  # 1,080 impostors: FAR 1e-3
    torch.manual_seed(0)
    iresnet = IResNetModel(IResNetConfig(depths=(1, 1, 1, 1), hidden_sizes=(8, 8, 16, 16)))
    export_checkpoint(iresnet, "arcface_torch", folder / "backbone.pth")
    (folder / "hf_face").symlink_to(ROOT / "hf_face")  # pages name metrics by their path
    return folder


def write_demo(folder: Path) -> None:
    torch.manual_seed(0)
    model = TimmFaceModel(TimmFaceConfig(architecture="resnet10t", embedding_size=16, image_size=32))
    card = FaceModelCardData(
        license="apache-2.0",
        training_data=[TrainingData("ORL faces", "free for research")],
        evaluations=[Evaluation("orl", {"accuracy": 0.5, "single_image_threshold@far=1e-2": 0.5})],
    )
    processor = FaceImageProcessor(size={"height": 32, "width": 32})
    write_model_folder(model, folder, "outputs/demo", card=card, image_processor=processor)


def write_people(faces, folder: Path, suffix: str, size: tuple[int, int]) -> None:
    for index, face in enumerate(faces):
        file = folder / f"person_{face['label'] + 1}" / f"{index % 10 + 1}.{suffix}"
        file.parent.mkdir(parents=True, exist_ok=True)
        face["image"].resize(size).save(file)


def write_bin(faces, path: Path) -> None:
    """Pairs as InsightFace ships them: a pickle of the images' bytes, two a pair, and of which pairs are genuine."""
    pairs = make_verification_pairs(faces, name=path.stem)
    images = pairs.images.cast_column("image", Image(decode=False))["image"]
    path.write_bytes(pickle.dumps(([images[row]["bytes"] for row in pairs.pairs.ravel()], pairs.same.tolist())))


@pytest.fixture
def names(workplace, hub, monkeypatch) -> dict:
    """What a page's code may take for granted; what it registers is forgotten afterwards."""
    monkeypatch.chdir(workplace)
    for registry in REGISTRIES:
        len(registry)  # its own entries are there
        monkeypatch.setattr(registry, "_entries", dict(registry._entries))
    random = np.random.default_rng(0)
    return {
        "__name__": "page",
        "model": AutoModel.from_pretrained("outputs/demo").eval(),
        "image_processor": FaceImageProcessor.from_pretrained("outputs/demo"),
        "scores": random.random(100),
        "same": np.arange(100) % 2 == 0,
    }


def run(page: Path, names: dict) -> None:
    for block in blocks(page, "python"):
        exec(compile(block, str(page.relative_to(ROOT)), "exec"), names)


@pytest.mark.parametrize("page", [page for page in PAGES[1:] if blocks(page, "python")], ids=lambda page: page.stem)
def test_the_python_of_a_page_runs(page, names):
    run(page, names)


def test_the_readme_does_what_it_says(names, hub):
    hub.store.repos.pop(("model", "org/orl_demo"), None)
    run(ROOT / "README.md", names)
    assert names["similarity"].shape == () and names["quality"].shape == (2, 1)
    assert names["trainer"].state.global_step == 2
    assert 0 <= names["metrics"]["eval_orl_accuracy"] <= 1
    assert Path("outputs/mine/model.safetensors").is_file()
    assert "model.safetensors" in hub.store.repos["model", "org/orl_demo"].commit("main").files


class Understood(Exception):
    """Raised in place of what a command would do."""


def understood(parse):
    def parse_and_stop(*args, **kwargs):
        parse(*args, **kwargs)
        raise Understood

    return parse_and_stop


def commands() -> list:
    """Every call of ours on a page, continued lines joined."""
    return [
        pytest.param(shlex.split(line, comments=True), id=f"{page.stem}: {line.split('#')[0].strip()}")
        for page in PAGES
        for block in blocks(page, "bash")
        for line in block.replace("\\\n", " ").splitlines()
        if re.search(r"hf-face |scripts/|hf_face\.", line)
    ]


@pytest.mark.parametrize("command", commands())
def test_a_command_is_understood(command, workplace, monkeypatch):
    monkeypatch.chdir(workplace)
    monkeypatch.setattr(
        HfArgumentParser, "parse_args_into_dataclasses", understood(HfArgumentParser.parse_args_into_dataclasses)
    )
    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", understood(argparse.ArgumentParser.parse_args))
    with pytest.raises(Understood):
        call(command, monkeypatch)


def call(command: list[str], monkeypatch) -> None:
    """Start what a command line starts, in this process."""
    words = iter(command)
    for word in words:
        if word in ("hf-face", "hf_face.cli"):
            return run_subcommand(list(words))
        if word == "hf_face.train":
            return train(list(words))
        if word.startswith("scripts/"):
            monkeypatch.setattr(sys, "argv", [word, *words])
            return runpy.run_path(str(ROOT / word), run_name="__main__")
    raise AssertionError(f"no command of ours: {command}")


def test_what_is_not_run_says_why():
    reasons = [reason for page in PAGES for reason in re.findall(r"<!-- not run: (.*?) -->", page.read_text())]
    assert all(len(reason) > 10 for reason in reasons) and len(reasons) < 5


def test_every_page_is_in_the_navigation():
    def pages(entry) -> list[str]:
        if isinstance(entry, str):
            return [entry]
        return [page for part in (entry.values() if isinstance(entry, dict) else entry) for page in pages(part)]

    listed = pages(yaml.safe_load((ROOT / "mkdocs.yml").read_text())["nav"])
    assert sorted(listed) == sorted(str(page.relative_to(ROOT / "docs")) for page in (ROOT / "docs").rglob("*.md"))


def test_links_lead_somewhere():
    for page in PAGES:
        for target in re.findall(r"\]\((?!https?://|#|mailto:)([^)#\s]+)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_the_comparison_is_the_same_wherever_it_stands():
    tables = [
        re.search(r"^\| \| hf_face \|.*?\n\n", page.read_text(), flags=re.MULTILINE | re.DOTALL)[0]
        for page in (ROOT / "README.md", ROOT / "docs" / "comparison.md")
    ]
    assert tables[0] == tables[1]
