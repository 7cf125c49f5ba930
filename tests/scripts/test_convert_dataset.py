"""The command line that converts data sets."""

import json
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest

from hf_face.data import RecordIO, load_identities, load_orl, select_identities, write_recordio
from hf_face.data.columns import encoded_images

RECIPE = """
train_data: [{folder}/parquet]
augmentation: flip
backbone:
  model_type: timm_face
  architecture: vit_tiny_patch16_224
  model_args: {{img_size: 32, patch_size: 8, depth: 1, embed_dim: 24, num_heads: 2}}
  embedding_size: 8
  image_size: 32
output_dir: {folder}/run
max_steps: 3
per_device_train_batch_size: 4
report_to: none
disable_tqdm: true
use_cpu: true
"""

SCRIPT = Path(__file__).parents[2] / "scripts" / "convert_dataset.py"


@pytest.fixture
def run(monkeypatch, capsys):
    """Run the script in this process; gives what it printed, and its progress bar. Exceptions are raised."""
    monkeypatch.setenv("HF_FACE_TRACEBACK", "1")

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", [str(SCRIPT), *map(str, arguments)])
        runpy.run_path(str(SCRIPT), run_name="__main__")
        return capsys.readouterr()

    return run


def test_to_parquet_and_back(tmp_path, run):
    write_recordio(select_identities(load_orl(), 4, 3), tmp_path / "rec")
    printed = run("--source", tmp_path / "rec", "--output_dir", tmp_path / "parquet", "--images_per_shard", 5)
    assert printed.out == f"{tmp_path / 'parquet'}\n"
    assert "12/12" in printed.err
    run("--source", tmp_path / "parquet", "--output_dir", tmp_path / "back", "--to", "recordio")
    assert (tmp_path / "back" / "train.rec").read_bytes() == (tmp_path / "rec" / "train.rec").read_bytes()


@pytest.mark.parametrize("kind", ["scalar_labels", "array_labels"])
def test_insightface_samples(shared_data, tmp_path, run, kind):
    run("--source", shared_data / "insightface_sample" / kind, "--output_dir", tmp_path / kind)
    dataset, recordio = load_identities(tmp_path / kind), RecordIO(shared_data / "insightface_sample" / kind)
    assert encoded_images(dataset, np.arange(296)) == [record.image for record in recordio]
    assert dataset["label"][:] == recordio.labels().tolist()
    assert dataset.features["label"].num_classes == 80


def test_the_result_is_trained_on(tmp_path, run, monkeypatch):
    write_recordio(select_identities(load_orl(), 4, 3), tmp_path / "rec")
    run("--source", tmp_path / "rec", "--output_dir", tmp_path / "parquet")
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(RECIPE.format(folder=tmp_path))
    monkeypatch.setattr(sys, "argv", ["train.py", str(recipe)])
    runpy.run_path(str(SCRIPT.with_name("train.py")), run_name="__main__")
    metrics = json.loads((tmp_path / "run" / "train_results.json").read_text())
    assert metrics["epoch"] == 1  # three batches of four are all twelve images
    assert 0 < metrics["train_loss"] < 100
    assert (tmp_path / "run" / "model.safetensors").is_file()


def test_wrong_arguments(tmp_path, run):
    with pytest.raises(ValueError, match="only Parquet is pushed to the Hub"):
        run("--source", tmp_path, "--output_dir", tmp_path, "--to", "recordio", "--push_to_hub", "me/faces")
