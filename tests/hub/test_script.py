"""scripts/push_to_hub.py, called as from the command line."""

import json
import runpy
from pathlib import Path

import pytest
from huggingface_hub import ModelCard

from hf_face.hub import write_model_folder

SCRIPT = Path(__file__).parents[2] / "scripts" / "push_to_hub.py"


@pytest.fixture
def run(hub, monkeypatch):
    def run(*arguments) -> None:
        monkeypatch.setattr("sys.argv", [str(SCRIPT), *map(str, arguments)])
        runpy.run_path(str(SCRIPT), run_name="__main__")

    return run


def test_a_trained_folder_needs_no_more_than_a_name(run, hub, backbone, image_processor, card, tmp_path, capsys):
    folder = write_model_folder(backbone, tmp_path / "run", "run", card=card, image_processor=image_processor)
    run("--model", folder, "--repo_id", "org/by_script")
    commit = hub.store.repos["model", "org/by_script"].commit("main").oid
    assert capsys.readouterr().out.strip() == f"{hub.url}/org/by_script/commit/{commit}"
    run("--model", folder, "--repo_id", "org/by_script", "--license", "mit", "--create_pr")
    assert capsys.readouterr().out.strip() == f"{hub.url}/org/by_script/discussions/1"
    assert b"license: mit" in hub.store.read("org/by_script", "README.md", "refs/pr/1")
    assert b"license: cc-by-nc-4.0" in hub.store.read("org/by_script", "README.md")


def test_a_converted_folder_states_its_licences_and_figures(run, hub, backbone, image_processor, tmp_path):
    backbone.save_pretrained(tmp_path / "converted")
    image_processor.save_pretrained(tmp_path / "converted")
    metrics = {"lfw_accuracy": 0.99, "lfw_threshold@far=1e-3": 0.25, "cfp_accuracy": 0.9}
    (tmp_path / "metrics.json").write_text(json.dumps({"metrics": metrics}))
    converted = ("--model", tmp_path / "converted", "--repo_id", "org/converted")
    with pytest.raises(ValueError, match="State the licence of the weights"):
        run(*converted)
    with pytest.raises(ValueError, match="--metrics and --evaluations belong together"):
        run(*converted, "--metrics", tmp_path / "metrics.json")
    run(
        *converted,
        *("--license", "other", "--license_name", "research-only", "--license_link", "https://example.org"),
        *("--training_data", '[{"name": "MS1MV3", "license": "research only"}]'),
        *("--metrics", tmp_path / "metrics.json", "--evaluations", '{"lfw": "LFW"}'),
    )
    published = ModelCard.load("org/converted")
    assert published.data.license_name == "research-only"
    assert [(r.dataset_name, r.metric_name) for r in published.data.eval_results] == [
        ("LFW", "accuracy"),
        ("LFW", "threshold@far=1e-3"),
    ]
