"""The command as a user types it, on ORL faces and a model without training."""

import json
import os
import re
import runpy
import sys
from itertools import product
from pathlib import Path
from unittest.mock import patch

import forked
import numpy as np
import pyarrow.parquet as pq
import pytest

from hf_face.evaluation import Embedder
from hf_face.evaluation.run import evaluate_model
from hf_face.registry import protocols

ROOT = Path(__file__).parents[2]
SCRIPT = str(ROOT / "scripts" / "evaluate.py")


@pytest.fixture(scope="module")
def pairs_folder(orl_pairs, tmp_path_factory) -> Path:
    return orl_pairs.to_parquet(tmp_path_factory.mktemp("data") / "orl")


def run_here(*arguments):
    """The script in this process."""
    arguments = [SCRIPT, *map(str, arguments)]
    with patch.object(sys, "argv", arguments), patch.dict(os.environ, HF_FACE_TRACEBACK="1"):
        runpy.run_path(SCRIPT, run_name="__main__")


def run_on_ranks(num_ranks, script, *arguments) -> dict:
    """What a script prints on this many ranks, one thread each: other numbers of threads round otherwise."""
    printed = forked.run([script, *arguments], num_ranks).stdout
    return json.loads(printed[printed.index("{") :])  # before it torch 2.10 and older say which ranks gloo connects


def test_two_ranks_give_the_numbers_of_one(model_folder, pairs_folder, tmp_path):
    # 40 images in batches of 16: the last batch is short, and the second rank has to repeat it.
    arguments = [SCRIPT, "--model", model_folder, "--protocol", "verification", "quality", "--far", 0.05]
    arguments += ["--data", pairs_folder, "--batch_size", 16, "--output_dir"]
    one, two = (run_on_ranks(ranks, *arguments, tmp_path / str(ranks)) for ranks in (1, 2))
    metrics, expected = two.pop("metrics"), one.pop("metrics")
    for name, value in expected.items():  # ranks embed other batches, which round otherwise
        swaps = 1e-3 if name.endswith("correlation") else 0  # of ranks, by norms that are equal but for rounding
        assert metrics.pop(name) == pytest.approx(value, rel=1e-6, abs=swaps), name
    assert not metrics
    assert two == one
    figures = [{path.name for path in (tmp_path / ranks).glob("*.png")} for ranks in ("1", "2")]
    assert figures[0] == figures[1] != set()


def test_two_ranks_share_what_is_on_disk(model_folder, ijb_folder, tmp_path):
    script = Path(__file__).with_name("protocols_on_ranks.py")
    two = run_on_ranks(2, script, model_folder, ijb_folder, tmp_path / "two")
    one = runpy.run_path(str(script))["run"](model_folder, ijb_folder, tmp_path / "one")
    assert two == pytest.approx(one, abs=1e-5)
    assert {"ijbc_auc", "all_pairs_tar@far=1e-4", "rows_after_resuming"} <= two.keys()
    tables = [pq.read_table(tmp_path / ranks / "embeddings.parquet") for ranks in ("one", "two")]
    assert tables[0]["file_name"] == tables[1]["file_name"]
    embeddings = [np.array(table["embedding"].to_pylist()) for table in tables]
    np.testing.assert_allclose(*embeddings, atol=1e-5)


def test_report_and_figures(model_folder, pairs_folder, tmp_path, capsys):
    run_here(
        *("--model", model_folder, "--protocol", "verification", "quality", "--far", 0.05),
        *("--data", pairs_folder, "--output_dir", tmp_path / "results"),
    )
    output = capsys.readouterr()
    report = json.loads(output.out)
    assert json.loads((tmp_path / "results" / "metrics.json").read_text()) == report
    assert output.out.startswith('{\n  "model"'), "indented, to be read"
    figures = {path.name for path in (tmp_path / "results").glob("*.png")}
    assert figures == {"orl_roc.png", "orl_det.png", "orl_scores.png", "orl_quality_erc.png"}
    assert {"orl_accuracy", "orl_quality_erc_area"} <= report["metrics"].keys()
    assert "orl_tar@far=1e-3" in report["not_measurable"]
    assert output.err.count("Embedding:   0%") == 1  # one pass serves both protocols


def test_sample_bin_of_insightface(model_folder, shared_data, tmp_path, capsys):
    sample = shared_data / "insightface_sample" / "lfw_sample_py3.bin"
    run_here("--model", model_folder, "--protocol", sample)
    metrics = json.loads(capsys.readouterr().out)["metrics"]
    assert (metrics["lfw_sample_py3_num_genuine"], metrics["lfw_sample_py3_num_impostors"]) == (20, 20)
    assert 0 < metrics["lfw_sample_py3_auc"] < 1


def run_for_report(capsys, tmp_path, model_folder, *arguments) -> tuple[dict, list, set[str]]:
    """Metrics, what was not measurable, and the figures that the script made."""
    folder = tmp_path / "new" / "results"
    run_here("--model", model_folder, "--output_dir", folder, *arguments)
    report = json.loads(capsys.readouterr().out)
    assert (folder / "metrics.json").is_file()
    return report["metrics"], report["not_measurable"], {path.stem for path in folder.glob("*.png")}


def test_ijb(model_folder, ijb_folder, tmp_path, capsys):
    arguments = ["--protocol", "ijb", "--data", ijb_folder, "--cache_dir", tmp_path / "cache", "--fars", 1e-1, 1e-6]
    arguments += ["--switches", "N1D1F1", "N0D0F0"]
    metrics, not_measurable, figures = run_for_report(capsys, tmp_path, model_folder, *arguments)
    assert figures == {f"ijbc{name}_{kind}" for name in ("", "_N0D0F0") for kind in ("roc", "det", "scores", "cmc")}
    assert {"ijbc_tar@far=1e-1", "ijbc_eer", "ijbc_G1_rank1", "ijbc_N0D0F0_insightface_rank1"} <= metrics.keys()
    assert "ijbc_tar@far=1e-2" not in metrics
    assert {"ijbc_tar@far=1e-6", "ijbc_N0D0F0_tpir@fpir=1e-2"} <= set(not_measurable)
    assert len(list(tmp_path.rglob("*.safetensors"))) == 1  # both switches read the same embeddings


def test_mirror_images_are_embedded_where_a_protocol_asks_for_them(model_folder, ijb_folder, tmp_path, capsys):
    reports = []
    for switches in (["N1D1F0"], ["N1D1F1", "N1D1F0"]):
        with patch("hf_face.evaluation.run.Embedder", wraps=Embedder) as embedder:
            arguments = ["--protocol", "ijb", "--data", ijb_folder, "--switches", *switches]
            reports.append(run_for_report(capsys, tmp_path, model_folder, *arguments)[0])
        assert embedder.call_args.kwargs["flip"] == ("N1D1F1" in switches)
    assert reports[0].items() <= reports[1].items()
    assert "ijbc_auc" in reports[1].keys() - reports[0].keys()


def test_all_pairs(model_folder, tmp_path, capsys):
    arguments = ["--protocol", "all_pairs", "--data", "orl"]
    metrics, not_measurable, figures = run_for_report(capsys, tmp_path, model_folder, *arguments)
    assert (metrics["all_pairs_num_genuine"], metrics["all_pairs_num_impostors"]) == (1800, 78000)
    assert {key for key in metrics if "tar@" in key} == {"all_pairs_tar@far=1e-4"}
    assert not_measurable == ["all_pairs_tar@far=1e-5", "all_pairs_tar@far=1e-6"]
    assert figures == {"all_pairs_roc", "all_pairs_det"}


def test_identification(model_folder, orl, tmp_path, capsys):
    for kind, people, photographs in (("gallery", range(10), range(3)), ("probes", range(5, 20), range(3, 10))):
        for person, photograph in product(people, photographs):
            file = tmp_path / kind / f"s{person}" / f"{photograph}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            orl[10 * person + photograph]["image"].save(file)
    arguments = ["--protocol", "identification", "--data", tmp_path / "gallery"]
    metrics, not_measurable, figures = run_for_report(capsys, tmp_path, model_folder, *arguments)
    assert not_measurable == ["identification_tpir@fpir=1e-2", "identification_tpir@fpir=1e-1"]
    assert figures == {"identification_cmc"}
    arguments += ["--probes", tmp_path / "probes"]
    apart, not_measurable, _ = run_for_report(capsys, tmp_path, model_folder, *arguments)
    assert not_measurable == ["identification_tpir@fpir=1e-2"]
    assert 0 < apart["identification_tpir@fpir=1e-1"] <= apart["identification_rank1"] <= 1
    assert apart["identification_rank1"] != metrics["identification_rank1"]


def test_tinyface(model_folder, tinyface, tmp_path, capsys):
    arguments = ["--protocol", "tinyface", "--data", tinyface]
    metrics, _, figures = run_for_report(capsys, tmp_path, model_folder, *arguments)
    assert {f"tinyface_rank{rank}" for rank in (1, 5, 10, 20, 50)} | {"tinyface_map"} == metrics.keys()
    assert figures == {"tinyface_cmc"}


def test_rfw(model_folder, rfw, tmp_path, capsys):
    arguments = ["--data", rfw, "--fars", 1e-1, 1e-6]
    metrics, not_measurable, figures = run_for_report(
        capsys, tmp_path, model_folder, "--protocol", "rfw", "fairness", *arguments
    )
    assert metrics["rfw_Asian_num_genuine"] == metrics["fairness_African_num_genuine"] == 24
    accuracies = [metrics[f"rfw_{group}_accuracy"] for group in ("African", "Asian")]
    assert metrics["rfw_accuracy_min"] == min(accuracies)
    assert "rfw_Asian_tar@far=1e-6" in not_measurable
    assert {"rfw_African_roc", "rfw_Asian_scores", "rfw_roc_by_group", "fairness_roc_by_group"} <= figures


def test_protocols_as_recipes_write_them(model_folder, pairs_folder, tmp_path, capsys):
    specs = [
        "{folder: {data: orl, fars: [1e-1, 1e-2]}}",
        f"{{quality: {{data: {pairs_folder}, name: norm, far: 5e-2}}}}",
    ]
    metrics, _, figures = run_for_report(capsys, tmp_path, model_folder, "--protocol", *specs)
    assert {key for key in metrics if "_tar@" in key} == {"orl_tar@far=1e-1", "orl_tar@far=1e-2"}
    assert metrics["orl_num_genuine"] == metrics["orl_num_impostors"] == 1800
    assert "norm_fnmr@far=5e-2" in metrics
    assert figures == {"orl_roc", "orl_det", "orl_scores", "norm_erc"}


def test_protocol_of_a_plugin(model_folder, tmp_path, capsys, monkeypatch):
    """The one that the documentation writes."""
    page = (ROOT / "docs" / "evaluation.md").read_text()
    (source,) = re.findall(r"```python\n(# house_protocols\.py\n.*?)```", page, re.DOTALL)
    (tmp_path / "house_protocols.py").write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(protocols, "_entries", dict(protocols._entries))
    arguments = ["--plugins", "house_protocols", "--protocol", "{cohesion: {data: orl}}"]
    metrics, _, figures = run_for_report(capsys, tmp_path, model_folder, *arguments)
    assert metrics.keys() == {"cohesion_mean_cosine"} and figures == set()
    assert 0 < metrics["cohesion_mean_cosine"] < 1


def test_option_that_no_chosen_protocol_takes_is_named(model_folder, ijb_folder):
    with pytest.raises(ValueError, match="--similarity has no effect on the chosen protocols: ijb"):
        run_here("--model", model_folder, "--protocol", "ijb", "--data", ijb_folder, "--similarity", "cosine")
    with pytest.raises(ValueError, match=r"--data has no effect on the chosen protocols: lfw\.bin"):
        run_here("--model", model_folder, "--protocol", "lfw.bin", "--data", ijb_folder)


@pytest.mark.parametrize("counts", [{"batch_size": 0}, {"num_workers": -1}])
def test_counts_below_the_least_are_refused_before_anything_is_loaded(counts):
    ((name, count),) = counts.items()
    with pytest.raises(ValueError, match=f"{name} must be at least {count + 1}, found {count}"):
        evaluate_model("nowhere", [], **counts)


@pytest.mark.parametrize("has_accelerator", [True, False])
def test_the_least_counts_are_taken_and_the_cpu_only_without_an_accelerator(has_accelerator):
    with (
        patch("torch.accelerator.is_available", lambda: has_accelerator),
        patch("hf_face.evaluation.run.PartialState", side_effect=InterruptedError) as state,
        pytest.raises(InterruptedError),
    ):
        evaluate_model("nowhere", [], batch_size=1, num_workers=0)
    state.assert_called_once_with(cpu=not has_accelerator)


def test_unknown_protocol_is_named(model_folder):
    with pytest.raises(ValueError, match=r"No protocol is called 'lwf'\. Did you mean 'lfw'\?"):
        run_here("--model", model_folder, "--protocol", "lwf", "--data", model_folder)


def test_help_and_documentation_teach_every_protocol(capsys):
    with pytest.raises(SystemExit):
        run_here("--help")
    text = capsys.readouterr().out
    assert "hf-face evaluate --model outputs/demo --protocol lfw.bin" in text
    _, _, described = text.partition("Protocols:")
    page = (ROOT / "docs" / "evaluation.md").read_text()
    for name, entry in protocols.items():
        assert f"`{name}`" in page
        assert re.search(rf"\b{name}\b", described)
        assert " ".join(entry.summary.split()[:5]) in described
