"""The cards in model_cards/ are whole, and the Hub takes them."""

import re
from pathlib import Path

import pytest
from huggingface_hub import ModelCard

CARDS = sorted((Path(__file__).parents[2] / "model_cards").glob("*/README.md"))


@pytest.fixture(params=CARDS, ids=lambda path: path.parent.name)
def path(request) -> Path:
    return request.param


def test_there_are_cards():
    assert [path.parent.name for path in CARDS] == ["demo_orl"]


def test_the_hub_takes_it(hub, path):
    ModelCard.load(path).validate()


def test_its_table_and_its_metadata_say_the_same(path):
    card = ModelCard.load(path)
    measured = card.text.split("## Evaluation")[1].split("\n## ")[0]
    table = {
        (where, metric): float(value)
        for where, metric, value in re.findall(r"\| (\S+) \| (\S+) \| ([\d.e-]+) \|", measured)
    }
    results = {(r.dataset_name, r.metric_name): r.metric_value for r in card.data.eval_results if r.source_name is None}
    assert results.keys() == table.keys() and len(table) > 5
    for key, value in results.items():
        assert table[key] == pytest.approx(value, rel=1e-4), key


def test_its_figures_are_here_and_others_are_not(path):
    shown = set(re.findall(r"!\[[^]]*\]\((.*?)\)", path.read_text(encoding="utf-8")))
    assert shown and shown == {str(f.relative_to(path.parent)) for f in path.parent.rglob("*.png")}


def test_thresholds_rise_as_the_rate_falls(path):
    rows = re.findall(r"^\| (1e-\d) \| (-?[\d.]+) \|$", path.read_text(encoding="utf-8"), flags=re.MULTILINE)
    thresholds = [float(threshold) for _, threshold in sorted(rows)]
    assert len(rows) > 1 and thresholds == sorted(thresholds)
