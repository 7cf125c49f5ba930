"""The cards in model_cards/ are whole, and the Hub takes them."""

import re
from pathlib import Path

import pytest
from huggingface_hub import ModelCard

from hf_face.hub.model_card import deviation_of

CARDS = sorted((Path(__file__).parents[2] / "model_cards").glob("*/README.md"))
MEASURED = [path for path in CARDS if path.parent.name == "demo_orl"]
OF_RECIPES = [path for path in CARDS if path not in MEASURED]  # of models that nobody has trained yet


@pytest.fixture(params=MEASURED, ids=lambda path: path.parent.name)
def path(request) -> Path:
    return request.param


def evaluation(card: ModelCard) -> str:
    return card.text.split("## Evaluation\n")[1].split("\n## ")[0]


def test_there_are_cards():
    assert len(MEASURED) == 1 and len(OF_RECIPES) > 5


@pytest.mark.parametrize("path", CARDS, ids=lambda path: path.parent.name)
def test_the_hub_takes_it(hub, path):
    ModelCard.load(path).validate()


@pytest.mark.parametrize("path", OF_RECIPES, ids=lambda path: path.parent.name)
def test_a_recipe_claims_no_figure_of_its_own(path):
    card = ModelCard.load(path)
    assert card.data.eval_results is None and "## Evaluation" not in card.text and "latency" not in card.text
    assert "Nobody has trained this model yet" in card.text
    assert "The training follows [" in card.text and "What was done differently:\n\n- " in card.text


def test_its_tables_and_its_metadata_say_the_same(path):
    card = ModelCard.load(path)
    tables = {}
    row = re.compile(r"^\| (.+) \| (\S+) \| ([\d.e-]+)(?: ± (\S+))? \|$", flags=re.MULTILINE)
    for where, metric, value, deviation in row.findall(evaluation(card)):
        tables[where, metric] = float(value)
        if deviation:
            tables[where, deviation_of(metric)] = float(deviation)
    results = {(r.dataset_name, r.metric_name): r.metric_value for r in card.data.eval_results if r.source_name is None}
    assert results.keys() == tables.keys() and len(tables) > 5
    for key, value in results.items():
        assert tables[key] == pytest.approx(value, rel=5e-3), key


def test_it_leads_with_the_primary_metric_and_its_curve(path):
    card = ModelCard.load(path)
    leading, _, rest = evaluation(card).partition("![")
    (metric,) = re.findall(r"\| \*\*(\S+)\*\* \| \*\*[\d.]+(?: ± [\d.]+)?\*\* \|", leading)
    assert metric == card.data.eval_results[0].metric_name == "accuracy"
    ours, theirs = rest.split("### As other projects compute it")
    assert "insightface_" not in ours and "insightface_accuracy" in theirs


def test_its_figures_are_here_and_others_are_not(path):
    shown = set(re.findall(r"!\[[^]]*\]\((.*?)\)", path.read_text(encoding="utf-8")))
    assert shown and shown == {str(f.relative_to(path.parent)) for f in path.parent.rglob("*.png")}


def test_thresholds_rise_as_the_rate_falls(path):
    rows = re.findall(r"^\| (1e-\d) \| (-?[\d.]+) \|$", path.read_text(encoding="utf-8"), flags=re.MULTILINE)
    thresholds = [float(threshold) for _, threshold in sorted(rows)]
    assert len(rows) > 1 and thresholds == sorted(thresholds)
