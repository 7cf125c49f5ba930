"""
Updates the tables of registered classes in the documentation, with their options and papers, the table of recipes, and
the cards of recipes that nobody has trained yet.

    python scripts/make_tables.py

The text between `<!-- margins -->` and `<!-- /margins -->` on a page is replaced with the table of
`hf_face.registry.margins`; likewise for the other registries, with what converts for `checkpoints`, and with all
recipes for `recipes`.
"""

import inspect
import re
from argparse import ArgumentParser, RawDescriptionHelpFormatter
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import torch
import yaml
from transformers import PreTrainedConfig

from hf_face import registry
from hf_face.convert import CheckpointSource
from hf_face.registry import Entry
from hf_face.training.recipe import build_model
from hf_face.training.recipe_card import create_recipe_card, model_arguments
from hf_face.training.recipe_files import Fields, find_recipe, read_recipe, recipe_names

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "recipes" / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
CARDS = ROOT / "model_cards"
# The recipe of each family whose card is in model_cards/
FAMILIES = {
    "adaface": "adaface/ir_101_wf12m",
    "arcface_torch": "arcface_torch/ms1mv3_r50",
    "face_embeddings": "face_embeddings/arcface_casia",
    "froundation": "froundation/baseline_s_wf4m",
    "lvface": "lvface/glint360k_vit_b_stage1",
    "spatial_maps": "spatial_maps/r100_gwp",
    "timm_face": "timm_face/vit_tiny_arcface",
    "transface": "transface/ms1mv2_vit_s",
}
GPUS_PER_MACHINE = 8
BLOCK = re.compile(r"<!-- (\w+) -->\n.*?<!-- /\1 -->", flags=re.DOTALL)
FILLED_IN = {"image_size"}  # arguments that recipes do not set


def fill(page: str) -> str:
    """The text of a page with its tables updated."""
    return BLOCK.sub(lambda match: f"<!-- {match[1]} -->\n\n{make_table(match[1])}\n\n<!-- /{match[1]} -->", page)


def make_table(name: str) -> str:
    """The table of a registry, of the checkpoints that convert, or of the recipes."""
    tables = {"checkpoints": checkpoint_table, "recipes": recipe_table}
    return tables[name]() if name in tables else registry_table(name)


def recipe_table() -> str:
    """What each recipe trains, and what its authors published."""
    recipes = {name: read_recipe(find_recipe(name)) for name in recipe_names()}
    return as_table(
        {
            "recipe": [f"[{name}]({name}.yaml)" for name in recipes],
            "backbone": [describe_backbone(recipe) for recipe in recipes.values()],
            "data": [describe_data(recipe) for recipe in recipes.values()],
            "margin": [describe_margin(recipe) for recipe in recipes.values()],
            "parameters": [count_parameters(yaml.dump(recipe.get("backbone"))) for recipe in recipes.values()],
            "published figures": [describe_figures(recipe.get("published")) for recipe in recipes.values()],
            "command": [f"`{command(name, recipe)}`" for name, recipe in recipes.items()],
        }
    )


def describe_backbone(recipe: Fields) -> str:
    if "model_name_or_path" in recipe:
        return recipe["model_name_or_path"] + (", LoRA" if "lora" in recipe else "")
    backbone = recipe["backbone"]
    inner = backbone.get("backbone_config", backbone)
    sizes = (inner.get(size) for size in ("architecture", "depths", "hidden_size", "num_hidden_layers", "neck"))
    return " ".join([inner["model_type"], *(str(size) for size in sizes if size is not None)])


def describe_data(recipe: Fields) -> str:
    return recipe["card"]["training_data"][0]["name"] if "card" in recipe else "your own"


def describe_margin(recipe: Fields) -> str:
    kwargs = recipe.get("margin_kwargs") or {}
    margin = ", ".join([recipe["margin"], *(f"{name} = {value}" for name, value in kwargs.items())])
    return f"{recipe['method']}: {margin}" if "method" in recipe else margin


@cache
def count_parameters(backbone: str) -> str:
    """The number of a new backbone's parameters; empty for one whose configuration is on the Hub."""
    settings = yaml.safe_load(backbone)
    if settings is None or "model_type" not in settings:
        return ""
    with torch.device("meta"):
        model, _ = build_model(model_arguments({"backbone": settings}), num_identities=1)
    return f"{sum(parameter.numel() for parameter in model.backbone.parameters()):,}"


def describe_figures(published: dict[str, Any] | None) -> str:
    if published is None:
        return "none; a recipe of ours"
    figures = [
        f"{evaluation} {metric} {value:.5g}"
        for evaluation, metrics in published.get("figures", {}).items()
        for metric, value in metrics.items()
    ]
    return f"{', '.join(figures) or published['note']} ([{published['source']}]({published['url']}))"


def command(name: str, recipe: Fields) -> str:
    gpus = (recipe.get("published") or {}).get("gpus", 1)
    if gpus == 1:
        return f"hf-face train {name}"
    machines = f" --num_machines {gpus // GPUS_PER_MACHINE}" if gpus > GPUS_PER_MACHINE else ""
    return f"accelerate launch --multi_gpu{machines} --num_processes {gpus} -m hf_face.train {name}"


def make_cards() -> Iterator[tuple[Path, str]]:
    """The cards of the families of recipes, as `save` writes them."""
    for family, recipe in FAMILIES.items():
        card = create_recipe_card(recipe, repo_id=f"org/{recipe.split('/')[1]}")
        yield CARDS / family / "README.md", str(card)


def checkpoint_table() -> str:
    """What each source of checkpoints reads, from its own statements."""
    sources = [entry.target() for _, entry in sorted(registry.sources.items())]
    return as_table(
        {
            "source": [f"[`{source.name}`]({source.url})" for source in sources],
            "files": [source.files for source in sources],
            "family": [", ".join(f"`{family}`" for family in source.families) for source in sources],
            "what you say": [what_to_say(source) for source in sources],
            "license of the published weights": [source.license for source in sources],
        }
    )


def what_to_say(source: CheckpointSource) -> str:
    asked = [
        f"`{option}`: {' or '.join(f'`{choice}`' for choice in choices)}" for option, choices in source.asks.items()
    ]
    return "; ".join(filter(None, [*asked, source.told]))


def registry_table(name: str) -> str:
    """The table of a registry, without empty columns."""
    entries = sorted(getattr(registry, name).values(), key=lambda entry: entry.name)
    columns = {
        "name": [f"`{entry.name}`" for entry in entries],
        "class": [f"`{entry.target.__name__}`" for entry in entries],
        "options and defaults": [describe_options(entry) for entry in entries],
        "description": [describe(entry) for entry in entries],
        "paper": [", ".join(short_citation(bibtex) for bibtex in citations_of(entry)) for entry in entries],
    }
    return as_table({title: cells for title, cells in columns.items() if any(cells)})


def as_table(columns: dict[str, list[str]]) -> str:
    rows = [list(columns), ["---"] * len(columns), *zip(*columns.values(), strict=True)]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def describe(entry: Entry) -> str:
    return re.sub(r"\[(`\w+`)\]", r"\1", entry.summary).replace("|", "\\|")


def describe_options(entry: Entry) -> str:
    """Options with their defaults, or the values that the name fixes. Empty for configurations, which have too many."""
    if is_config(entry):
        return ""
    takes_options = getattr(entry.target, "load", entry.target)  # the options of protocols are those of `load`
    defaults = {
        name: entry.presets.get(name, parameter.default)
        for name, parameter in inspect.signature(takes_options).parameters.items()
        if name not in FILLED_IN
    }
    options = ", ".join(
        name if value is inspect.Parameter.empty else f"{name}={value!r}" for name, value in defaults.items()
    )
    return f"`{options}`".replace("|", "\\|") if options else ""


def citations_of(entry: Entry) -> tuple[str, ...]:
    return entry.target().citations if is_config(entry) else entry.citations


def is_config(entry: Entry) -> bool:
    return isinstance(entry.target, type) and issubclass(entry.target, PreTrainedConfig)


def short_citation(bibtex: str) -> str:
    """Authors and year of a BibTeX entry, as in "Deng et al. 2019", or its key if it has no authors."""
    authors = re.search(r"author\s*=\s*\{(.*?)\},?\s*\n", bibtex, flags=re.DOTALL)
    year = re.search(r"year\s*=\s*\{(\d+)\}", bibtex)
    if authors is None:
        return registry.citation_key(bibtex)
    names = [author.partition(",")[0] for author in re.split(r"\s+and\s+", authors[1])]
    who = " and ".join(names) if len(names) <= 2 else f"{names[0]} et al."
    return f"{who} {year[1]}" if year else who


def main() -> None:
    ArgumentParser(description=__doc__, formatter_class=RawDescriptionHelpFormatter).parse_args()
    texts = [(page, fill(page.read_text(encoding="utf-8"))) for page in PAGES]
    for page, text in [*texts, *make_cards()]:
        if not page.is_file() or page.read_text(encoding="utf-8") != text:
            page.parent.mkdir(exist_ok=True)
            page.write_text(text, encoding="utf-8")
            print(f"{page.relative_to(ROOT)} updated")


if __name__ == "__main__":
    main()
