"""
Updates the tables of registered classes in the documentation, with their options and papers.

    python scripts/make_tables.py

The text between `<!-- margins -->` and `<!-- /margins -->` on a page is replaced with the table of
`hf_face.registry.margins`; likewise for the other registries, and with what converts for `checkpoints`.
"""

import inspect
import re
from argparse import ArgumentParser, RawDescriptionHelpFormatter
from pathlib import Path

from transformers import PreTrainedConfig

from hf_face import registry
from hf_face.convert import CheckpointSource
from hf_face.registry import Entry

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"<!-- (\w+) -->\n.*?<!-- /\1 -->", flags=re.DOTALL)
FILLED_IN = {"image_size"}  # arguments that recipes do not set


def fill(page: str) -> str:
    """The text of a page with its tables updated."""
    return BLOCK.sub(lambda match: f"<!-- {match[1]} -->\n\n{make_table(match[1])}\n\n<!-- /{match[1]} -->", page)


def make_table(name: str) -> str:
    """The table of a registry, or of the checkpoints that convert."""
    return checkpoint_table() if name == "checkpoints" else registry_table(name)


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
    for page in PAGES:
        before = page.read_text(encoding="utf-8")
        after = fill(before)
        if after != before:
            page.write_text(after, encoding="utf-8")
            print(f"{page.relative_to(ROOT)}: tables updated")


if __name__ == "__main__":
    main()
