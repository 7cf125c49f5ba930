"""The command as a user types it, on ORL faces and a model without training."""

import json
import os
import runpy
import subprocess
import sys
from pathlib import Path
from unittest.mock import patch

import pytest
import torch

from hf_face import FaceImageProcessor, TimmFaceConfig, TimmFaceModel
from hf_face.data import load_orl, make_verification_pairs, split_identities
from hf_face.evaluation.protocols import PROTOCOLS, ProtocolArguments, find_verification_set, load_groups

ROOT = Path(__file__).parents[2]
SCRIPT = str(ROOT / "scripts" / "evaluate.py")


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory) -> Path:
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("model")
    TimmFaceModel(TimmFaceConfig(architecture="resnet10t", image_size=32, embedding_size=16)).save_pretrained(folder)
    FaceImageProcessor(size={"height": 32, "width": 32}).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def orl_pairs():
    return make_verification_pairs(split_identities(load_orl(), num_held_out=4, seed=0)[1], name="orl")


@pytest.fixture(scope="module")
def pairs_folder(orl_pairs, tmp_path_factory) -> Path:
    return orl_pairs.to_parquet(tmp_path_factory.mktemp("data") / "orl")


def run_here(*arguments):
    """The script in this process."""
    with patch.object(sys, "argv", [SCRIPT, *map(str, arguments)]):
        runpy.run_path(SCRIPT, run_name="__main__")


def run_on_ranks(num_ranks, *arguments) -> dict:
    """The report of the script on this many ranks, one thread each: other numbers of threads round otherwise."""
    # Not accelerate launch, which starts several ranks without GPUs through MPI only.
    env = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(num_ranks)]
    run = subprocess.run([*launcher, SCRIPT, *map(str, arguments)], env=env, check=True, stdout=subprocess.PIPE)
    return json.loads(run.stdout)


@pytest.mark.slow  # starts three processes, each of which imports torch and transformers
def test_two_ranks_give_the_numbers_of_one(model_folder, pairs_folder, tmp_path):
    # 40 images in batches of 16: the last batch is short, and the second rank has to repeat it.
    arguments = ["--model", model_folder, "--protocol", "verification", "quality", "--far", 0.05]
    arguments += ["--data", pairs_folder, "--batch_size", 16, "--output_dir"]
    one, two = (run_on_ranks(ranks, *arguments, tmp_path / str(ranks)) for ranks in (1, 2))
    assert two == one
    figures = [{path.name for path in (tmp_path / ranks).glob("*.png")} for ranks in ("1", "2")]
    assert figures[0] == figures[1] != set()


def test_report_and_figures(model_folder, pairs_folder, tmp_path, capsys):
    run_here(
        *("--model", model_folder, "--protocol", "verification", "quality", "--far", 0.05),
        *("--data", pairs_folder, "--output_dir", tmp_path / "results"),
    )
    output = capsys.readouterr()
    report = json.loads(output.out)
    assert json.loads((tmp_path / "results" / "metrics.json").read_text()) == report
    figures = {path.name for path in (tmp_path / "results").glob("*.png")}
    assert figures == {"orl_roc.png", "orl_det.png", "orl_scores.png", "orl_erc_norm.png"}
    assert {"orl_accuracy", "orl_erc_area"} <= report["metrics"].keys()
    assert "orl_tar@far=1e-3" in report["not_measurable"]
    assert output.err.count("Embedding:   0%") == 1  # one pass serves both protocols


def test_sample_bin_of_insightface(model_folder, shared_data, tmp_path, capsys):
    sample = shared_data / "insightface_sample" / "lfw_sample_py3.bin"
    run_here("--model", model_folder, "--protocol", "verification", "--data", sample)
    metrics = json.loads(capsys.readouterr().out)["metrics"]
    assert (metrics["lfw_sample_py3_num_genuine"], metrics["lfw_sample_py3_num_impostors"]) == (20, 20)
    assert 0 < metrics["lfw_sample_py3_auc"] < 1


def test_unknown_protocol_is_named(model_folder):
    with pytest.raises(ValueError, match="unknown protocol lwf; known are verification, lfw"):
        run_here("--model", model_folder, "--protocol", "lwf", "--data", "nowhere")


def test_built_in_sets_are_found_as_bin_converted_or_listed(orl_pairs, shared_data, tmp_path):
    sample = shared_data / "insightface_sample" / "lfw_sample_py3.bin"
    (tmp_path / "lfw.bin").symlink_to(sample)
    orl_pairs.to_parquet(tmp_path / "agedb_30")
    for name, image in zip(["Ann/Ann_0001", "Ann/Ann_0002", "Bob/Bob_0001"], orl_pairs.images["image"], strict=False):
        file = tmp_path / "xqlfw_aligned_112" / f"{name}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        image.save(file)
    (tmp_path / "xqlfw_pairs.txt").write_text("1\t1\nAnn\t1\t2\nAnn\t1\tBob\t1\n")
    assert find_verification_set("xqlfw", tmp_path).pairs.tolist() == [[0, 1], [0, 2]]
    (tmp_path / "xqlfw_pairs.txt").unlink()

    evaluators = PROTOCOLS["verification"](ProtocolArguments(data=str(tmp_path)))
    assert [(evaluator.name, len(evaluator.pairs)) for evaluator in evaluators] == [("lfw", 40), ("agedb_30", 360)]
    (evaluator,) = PROTOCOLS["lfw"](ProtocolArguments(data=str(tmp_path), flip="none", similarity="squared_euclidean"))
    assert (evaluator.name, evaluator.flip, evaluator.similarity) == ("lfw", None, "squared_euclidean")
    with pytest.raises(FileNotFoundError, match=r"holds no cplfw: expected cplfw\.bin"):
        find_verification_set("cplfw", tmp_path)


def test_groups_are_found_as_bins_or_as_a_column(orl_pairs, shared_data, tmp_path):
    sample = shared_data / "insightface_sample"
    for group, file in {"African": "lfw_sample_py3.bin", "Asian": "lfw_sample_py2.bin"}.items():
        (tmp_path / f"{group}.bin").symlink_to(sample / file)
    assert {name: len(pairs) for name, pairs in load_groups(tmp_path).items()} == {"African": 40, "Asian": 40}
    (evaluator,) = PROTOCOLS["rfw"](ProtocolArguments(data=str(tmp_path), far=0.1))
    assert evaluator.name == "rfw"
    orl_pairs.to_parquet(tmp_path / "orl")
    with pytest.raises(ValueError, match="the pairs have no column 'group'"):
        load_groups(tmp_path / "orl")
