"""Each subcommand on a tiny model, as somebody types it."""

import json
import runpy
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
from transformers import AutoModel

from hf_face.cli.launching import hint_at_launchers
from hf_face.data import load_identities
from hf_face.hub import FaceModelCardData, TrainingData

RECIPE = """
train_data: [{photographs}]
augmentation: flip
backbone:
  model_type: timm_face
  architecture: vit_tiny_patch16_224
  model_args: {{img_size: 32, patch_size: 8, depth: 1, embed_dim: 24, num_heads: 2}}
  embedding_size: 8
  image_size: 32
max_steps: 3
per_device_train_batch_size: 4
save_strategy: "no"
report_to: none
disable_tqdm: true
use_cpu: true
"""


@pytest.fixture
def recipe(photographs, tmp_path) -> Path:
    file = tmp_path / "mine.yaml"
    file.write_text(RECIPE.format(photographs=photographs))
    return file


def test_train(hf_face, recipe, tmp_path):
    ended = hf_face("train", recipe, "--max_steps", 2, "--output_dir", tmp_path / "run")
    assert (ended.status, "GPUs" in ended.err) == (0, False)
    assert json.loads((tmp_path / "run" / "train_results.json").read_text())["epoch"] == 2
    assert AutoModel.from_pretrained(tmp_path / "run").config.embedding_size == 8


def test_train_says_how_several_gpus_are_used(monkeypatch, capsys):
    monkeypatch.setattr(torch.accelerator, "device_count", lambda: 2)
    hint_at_launchers()
    hint = "Training on 2 GPUs with one process; for one process per GPU, see `hf-face train --help`.\n"
    assert capsys.readouterr().err == hint
    monkeypatch.setenv("WORLD_SIZE", "2")
    hint_at_launchers()
    assert capsys.readouterr().err == ""


def test_train_says_that_accelerate_started_one_process_in_place_of_several(monkeypatch, capsys):
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    hint_at_launchers()
    assert "--config_file $(hf-face recipes accelerate/cpu)" in capsys.readouterr().err


def test_the_module_that_launchers_start(recipe, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["train.py", str(recipe), "--output_dir", str(tmp_path / "run")])
    monkeypatch.delitem(sys.modules, "hf_face.train", raising=False)
    runpy.run_module("hf_face.train", run_name="__main__")
    assert (tmp_path / "run" / "model.safetensors").is_file()


def test_embed(hf_face, model_folder, photographs, tmp_path):
    table = tmp_path / "embeddings.parquet"
    ended = hf_face("embed", "--model", model_folder, "--images", photographs, "--output", table)
    assert (ended.status, ended.out) == (0, f"6 images embedded into {table}\n")
    embeddings = torch.tensor(pq.read_table(table)["embedding"].to_pylist())
    torch.testing.assert_close(embeddings.norm(dim=1), torch.ones(6))


def test_evaluate(hf_face, model_folder, photographs, tmp_path):
    ended = hf_face(
        *("evaluate", "--model", model_folder, "--protocol", "all_pairs", "--data", photographs),
        *("--fars", 0.5, "--output_dir", tmp_path / "results"),
    )
    report = json.loads(ended.out)
    assert json.loads((tmp_path / "results" / "metrics.json").read_text()) == report
    assert report["model"] == str(model_folder)
    assert (report["metrics"]["all_pairs_num_genuine"], report["metrics"]["all_pairs_num_impostors"]) == (3, 12)


def test_convert_and_back(hf_face, model_folder, tmp_path):
    checkpoint, folder = tmp_path / "backbone.pth", tmp_path / "converted"
    ended = hf_face("convert", "--export", "arcface_torch", model_folder, checkpoint)
    assert (ended.status, ended.out) == (0, f"{checkpoint}: written for arcface_torch.\n")
    ended = hf_face("convert", "--source", "arcface_torch", checkpoint, folder)
    assert ended.out.startswith(f"{folder}: iresnet, 0.0 M parameters, 16-d embedding, rgb input.\n")
    before, after = (AutoModel.from_pretrained(each).state_dict() for each in (model_folder, folder))
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_data(hf_face, photographs, tmp_path):
    ended = hf_face("data", "--source", photographs, "--output_dir", tmp_path / "parquet", "--name", "Three people")
    assert (ended.status, ended.out) == (0, f"{tmp_path / 'parquet'}\n")
    assert load_identities(tmp_path / "parquet")["label"] == [0, 0, 1, 1, 2, 2]
    assert "# Three people" in (tmp_path / "parquet" / "README.md").read_text()


def test_push(hf_face, hub, model_folder, tmp_path):
    folder = tmp_path / "stated"
    folder.mkdir()
    for file in model_folder.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    FaceModelCardData(license="mit", training_data=[TrainingData("ORL", "free for research")]).save(folder)
    ended = hf_face("push", "--model", folder, "--repo_id", "org/pushed_by_command")
    commit = hub.store.repos["model", "org/pushed_by_command"].commit("main").oid
    assert ended.out == f"{hub.url}/org/pushed_by_command/commit/{commit}\n"


def test_recipes(hf_face):
    names = hf_face("recipes").out.splitlines()
    assert "demo/orl" in names and names == sorted(names)
    starts = {"demo/orl": "# A small", "accelerate/multi_gpu": "# One machine", "accelerate/slurm.sh": "#!/bin/bash"}
    for name, start in starts.items():
        assert Path(hf_face("recipes", name).out.strip()).read_text().startswith(start)
