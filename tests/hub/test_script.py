"""scripts/push_to_hub.py, called as from the command line, and what a recipe states for the card."""

import json
import runpy
from pathlib import Path

import pytest
from huggingface_hub import ModelCard
from matplotlib.figure import Figure

from hf_face.hub import Evaluation, TrainingData, write_model_folder
from hf_face.training.recipe_arguments import CardArguments

SCRIPT = Path(__file__).parents[2] / "scripts" / "push_to_hub.py"


@pytest.fixture
def run(hub, monkeypatch):
    monkeypatch.setenv("HF_FACE_TRACEBACK", "1")  # exceptions as they are

    def run(*arguments) -> None:
        monkeypatch.setattr("sys.argv", [str(SCRIPT), *map(str, arguments)])
        runpy.run_path(str(SCRIPT), run_name="__main__")

    return run


def test_a_trained_folder_needs_no_more_than_a_name(run, hub, backbone, image_processor, card, tmp_path, capsys):
    folder = write_model_folder(backbone, tmp_path / "run", "run", card=card, image_processor=image_processor)
    run("--model", folder, "--repo_id", "org/by_script")
    commit = hub.store.repos["model", "org/by_script"].commit("main").oid
    assert capsys.readouterr().out.strip() == f"{hub.url}/org/by_script/commit/{commit}"
    (tmp_path / "card.yaml").write_text("license: mit\n")
    run("--model", folder, "--repo_id", "org/by_script", "--card", tmp_path / "card.yaml", "--create_pr")
    assert capsys.readouterr().out.strip() == f"{hub.url}/org/by_script/discussions/1"
    proposed = hub.store.read("org/by_script", "README.md", "refs/pr/1")
    assert b"license: mit" in proposed and b"ORL faces" in proposed, "what the file leaves out stays"
    assert b"license: cc-by-nc-4.0" in hub.store.read("org/by_script", "README.md")


CARD = """
license: other
license_name: research-only
license_link: https://example.org
alignment: by the eyes alone
training_data: [{name: MS1MV3, license: research only}]
hyperparameters: {epochs: 20}
evaluations:
  - {name: IJB-C, metrics: {tar@far=1e-4: 0.96}, source_name: the authors, source_url: https://example.org}
"""


def test_a_converted_folder_states_its_card_and_adds_its_results(run, hub, backbone, image_processor, tmp_path):
    backbone.save_pretrained(tmp_path / "converted")
    image_processor.save_pretrained(tmp_path / "converted")
    metrics = {"lfw_accuracy": 0.99, "lfw_single_image_threshold@far=1e-3": 0.25, "cfp_accuracy": 0.9}
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "metrics.json").write_text(json.dumps({"metrics": metrics}))
    Figure(figsize=(1, 1)).savefig(tmp_path / "results" / "lfw_roc.png")
    converted = ("--model", tmp_path / "converted", "--repo_id", "org/converted")
    with pytest.raises(ValueError, match="state the licenses in a file, --card"):
        run(*converted)
    with pytest.raises(ValueError, match="--results and --evaluations belong together"):
        run(*converted, "--results", tmp_path / "results")
    (tmp_path / "card.yaml").write_text(CARD)
    results = ("--results", tmp_path / "results", "--evaluations", '{"lfw": "LFW"}')
    run(*converted, "--card", tmp_path / "card.yaml", *results)
    published = ModelCard.load("org/converted")
    assert published.data.license_name == "research-only"
    assert {(r.dataset_name, r.metric_name, r.source_name) for r in published.data.eval_results} == {
        ("LFW", "accuracy", None),
        ("IJB-C", "tar@far=1e-4", "the authors"),
    }
    assert "](figures/lfw_roc.png)" in published.text and "| epochs | 20 |" in published.text
    assert "The model expects face crops, by the eyes alone." in published.text
    assert json.loads(hub.store.read("org/converted", "config.json"))["similarity_thresholds"] == {"1e-3": 0.25}


def test_a_recipe_states_figures_of_others_too():
    stated = {"license": "mit", "training_data": [{"name": "ORL", "license": "free"}]}
    figure = {"name": "LFW", "metrics": {"accuracy": 0.99}, "source_name": "they", "source_url": "https://example.org"}
    card = CardArguments(card=stated | {"evaluations": [figure]}).build()
    assert card.training_data == [TrainingData("ORL", "free")] and card.reported == [Evaluation(**figure)]
    with pytest.raises(ValueError, match=r"the recipe's card has unknown fields \['licens'\]"):
        CardArguments(card={"licens": "mit"}).build()
