"""The tables in the documentation match the registries."""

import re
import runpy
from pathlib import Path

import pytest

from hf_face import registry
from hf_face.heads import Margin
from hf_face.registry import margins
from hf_face.training.recipe_files import recipe_names

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def script() -> dict:
    return runpy.run_path(str(ROOT / "scripts" / "make_tables.py"))


@pytest.mark.parametrize("page, block", [("margins.md", "margins"), ("augmentation.md", "augmentations")])
def test_pages_have_tables(page, block):
    assert f"<!-- {block} -->\n\n| name | class |" in (ROOT / "docs" / page).read_text(encoding="utf-8")


def test_the_committed_tables_are_current(script, monkeypatch):
    for each in registry.REGISTRIES:  # other tests may have registered their own classes
        built_in = {name: entry for name, entry in each.items() if entry.target.__module__.startswith("hf_face.")}
        monkeypatch.setattr(each, "_entries", built_in)
    for page in script["PAGES"]:
        text = page.read_text(encoding="utf-8")
        assert script["fill"](text) == text, f"{page.name} is outdated: run python scripts/make_tables.py"


VERSIONS = re.compile(r"^Library versions: .*$", flags=re.MULTILINE)


def test_the_committed_cards_of_recipes_are_current(script):
    for path, text in script["make_cards"]():
        committed = VERSIONS.sub("", path.read_text(encoding="utf-8"))
        assert VERSIONS.sub("", text) == committed, f"{path} is outdated: run python scripts/make_tables.py"


def test_every_family_of_recipes_has_a_card(script):
    assert {name.split("/")[0] for name in recipe_names()} - {"demo"} == set(script["FAMILIES"])


@pytest.mark.parametrize("name", ["margins", "families", "protocols", "methods", "sources", "augmentations"])
def test_every_registry_has_a_table(script, name):
    header, _, *rows = script["make_table"](name).splitlines()
    assert header.startswith("| name | class |")
    assert [row.split("`")[1] for row in rows] == sorted(getattr(registry, name))
    assert all(row.count(" | ") == header.count(" | ") for row in rows)


def test_a_row_says_name_options_description_and_paper(script, monkeypatch):
    monkeypatch.setattr(margins, "_entries", dict(margins))

    @margins.register("soft", citation="@misc{soft,\n  author = {Roe, Ann and Doe, Bob},\n  year = {2026}\n}", m=0.2)
    class SoftMargin(Margin):
        """cos(theta) - m, as [`CosFaceMargin`] | softly.

        Args:
            m: the margin.
        """

        def __init__(self, m: float = 0.5, kind: str = "soft"):
            super().__init__()

    description = "cos(theta) - m, as `CosFaceMargin` \\| softly."
    row = f"| `soft` | `SoftMargin` | `m=0.2, kind='soft'` | {description} | Roe and Doe 2026 |"
    assert row in script["fill"]("text\n<!-- margins -->\nold\n<!-- /margins -->\n")
