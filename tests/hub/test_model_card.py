"""The card says what was measured and stated, and nothing that the Hub refuses."""

import dataclasses
import math
import re
import time

import pytest
from huggingface_hub import ModelCard

from hf_face import FoundationFaceConfig, FoundationFaceModel, IResNetConfig
from hf_face.heads import Margin
from hf_face.hub import (
    Evaluation,
    FaceModelCardData,
    TrainingData,
    create_model_card,
    evaluations_from_metrics,
    read_emissions,
)
from hf_face.hub.card_data import ARCFACE_ALIGNMENT
from hf_face.hub.model_card import known_citations
from hf_face.models.families import FAMILIES
from hf_face.registry import REGISTRIES, citation_key, margins

DATA = [TrainingData("MS1MV3", "research only", hub_id="org/ms1mv3", images=5_179_510, identities=93_431)]


@pytest.fixture
def render(backbone, image_processor, measurements):
    def render(data: FaceModelCardData) -> ModelCard:
        return create_model_card(data, backbone, image_processor, "org/model", measurements)

    return render


def section(card: ModelCard, title: str) -> str:
    return card.text.split(f"## {title}\n")[1].split("\n## ")[0]


def test_metrics_are_sorted_by_evaluation():
    metrics = {"eval_agedb_accuracy": 0.5, "eval_agedb_30_accuracy": 0.9, "eval_runtime": 3.0, "eval_lfw_auc": 1.0}
    titles = {"agedb": "AgeDB", "agedb_30": "AgeDB-30", "cfp": "CFP", "lfw": "LFW"}
    assert evaluations_from_metrics(metrics, titles) == [
        Evaluation("AgeDB", {"accuracy": 0.5}),
        Evaluation("AgeDB-30", {"accuracy": 0.9}),
        Evaluation("LFW", {"auc": 1.0}),
    ]


def test_figures_of_others_are_never_shown_as_ours(render):
    ours = Evaluation("LFW", {"accuracy": 0.99, "single_image_threshold@far=1e-3": 0.3})
    theirs = Evaluation(
        "LFW",
        {"accuracy": 0.998, "single_image_threshold@far=1e-3": 0.2},
        source_name="the paper",
        source_url="https://example.org",
    )
    for evaluations in ([ours, theirs], [theirs, ours]):
        card = render(FaceModelCardData(license="mit", training_data=DATA, evaluations=evaluations))
        again = ModelCard(str(card))
        by_source = {(r.metric_name, r.source_name): r.metric_value for r in again.data.eval_results}
        assert by_source["accuracy", None] == 0.99 and by_source["accuracy", "the paper"] == 0.998
        measured, reported = card.text.split("## Figures reported by others")
        assert "| LFW | accuracy | 0.99 |" in measured and "0.998" not in measured
        assert "| LFW | accuracy | 0.998 | [the paper](https://example.org) |" in reported
        assert "| 1e-3 | 0.3000 |" in measured, "thresholds are those measured with these weights"


VERIFICATION = Evaluation(
    "LFW",
    {"auc": 0.99, "accuracy": 0.97, "accuracy_std": 0.012, "num_genuine": 3000.0, "num_impostors": 3000.0}
    | {"insightface_accuracy": 0.975, "insightface_val@far=1e-3": 0.9, "insightface_val_std@far=1e-3": 0.02},
    note="single images",
)
IDENTIFICATION = Evaluation("TinyFace", {"rank1": 0.625, "rank5": 0.75, "threshold@fpir=1e-2": 0.3})


def test_the_evaluation_leads_with_each_primary_metric_and_the_figures(render):
    figures = ["figures/lfw_roc.png", "figures/tinyface_cmc.png"]
    data = FaceModelCardData("mit", DATA, evaluations=[VERIFICATION, IDENTIFICATION], figures=figures)
    card = render(data)
    leading, rest = section(card, "Evaluation").split("![lfw: ROC curve](figures/lfw_roc.png)")
    assert "| LFW | **accuracy** | **0.97 ± 0.012** |\n| TinyFace | **rank1** | **0.625** |" in leading
    assert "![tinyface: CMC curve](figures/tinyface_cmc.png)" in rest
    assert "| LFW | accuracy | 0.97 ± 0.012 |\n| LFW | auc | 0.99 |\n| TinyFace | rank1 | 0.625 |" in rest
    assert [(r.task_type, r.metric_name) for r in card.data.eval_results] == [
        ("face-verification", "accuracy"),
        ("face-verification", "auc"),
        ("face-verification", "accuracy_std"),
        ("face-verification", "insightface_accuracy"),
        ("face-verification", "insightface_val@far=1e-3"),
        ("face-verification", "insightface_val_std@far=1e-3"),
        ("face-identification", "rank1"),
        ("face-identification", "rank5"),
    ]


def test_metrics_computed_as_other_projects_do_have_their_own_table(render):
    card = render(FaceModelCardData("mit", DATA, evaluations=[VERIFICATION]))
    ours, theirs = section(card, "Evaluation").split("### As other projects compute it")
    assert "insightface" not in ours
    assert "| LFW | insightface_accuracy | 0.975 |\n| LFW | insightface_val@far=1e-3 | 0.9 ± 0.02 |" in theirs
    card = render(FaceModelCardData("mit", DATA, evaluations=[IDENTIFICATION]))
    assert "As other projects compute it" not in card.text


def test_pairs_are_counted_where_there_are_pairs(render):
    text = section(render(FaceModelCardData("mit", DATA, evaluations=[VERIFICATION])), "Evaluation")
    assert "LFW: 3,000 genuine and 3,000 impostor pairs; single images." in text
    text = section(render(FaceModelCardData("mit", DATA, evaluations=[IDENTIFICATION])), "Evaluation")
    assert "pairs" not in text and "TinyFace:" not in text


def test_the_primary_metric_is_the_stated_one_or_the_usual_one():
    ijb = {"auc": 0.99, "tar@far=1e-4": 0.9, "rank1": 0.95}
    assert next(iter(Evaluation("IJB-C", ijb, primary_metric="rank1").results)) == "rank1"
    assert next(iter(Evaluation("IJB-C", ijb).results)) == "tar@far=1e-4"
    assert next(iter(Evaluation("a new protocol", {"insightface_x": 1.0, "y": 0.5, "z": 0.25}).results)) == "y"
    with pytest.raises(ValueError, match=r"primary_metric='rank_1' is not one of its results, tar@far=1e-4, auc"):
        Evaluation("IJB-C", ijb, primary_metric="rank_1")


def test_licenses_are_shown_apart(render):
    data = FaceModelCardData(
        license="other",
        license_name="insightface-non-commercial",
        license_link="https://example.org/terms",
        training_data=DATA,
    )
    card = render(data)
    licenses = card.text.split("## Licenses")[1].split("##")[0]
    assert "- **Weights**: [insightface-non-commercial](https://example.org/terms)" in licenses
    assert "- **Training data**, MS1MV3: research only" in licenses
    assert "- **Code** in this repository (hf_face): Apache-2.0" in licenses
    assert card.data.license == "other" and card.data.license_name == "insightface-non-commercial"
    assert card.data.datasets == ["org/ms1mv3"]
    assert "| [MS1MV3](https://huggingface.co/datasets/org/ms1mv3) | 5,179,510 | 93,431 | research only |" in card.text


def test_backbone_margin_and_data_are_cited_once(render):
    own = "@misc{own,\n  title = {Our data}\n}"
    data = FaceModelCardData(
        license="mit",
        training_data=[TrainingData("ORL", "x", citation="orl"), TrainingData("Own", "x", citation=own)],
        citations=["arcface", "partial_fc"],
    )
    assert cited(render(data)) == ["resnet", "arcface", "orl", "own", "partial_fc"]


def test_what_was_not_stated_is_not_claimed(render, card):
    text = render(card).text
    assert "how they were aligned for training is not stated" in text and "ArcFace reference points" not in text
    text = render(dataclasses.replace(card, alignment=ARCFACE_ALIGNMENT)).text
    assert "lie at the ArcFace reference points for 112 x 112." in text


def test_small_figures_and_settings_of_several_lines_stay_what_they_are(render, card):
    card.evaluations = [Evaluation("IJB-C", {"fnir": 1.25e-8, "threshold": 0.5, "num_impostors": 100.0})]
    card.hyperparameters = {"optim_args": "a=1\n|b=2"}
    rendered = render(card)
    assert [(r.metric_name, r.metric_value) for r in rendered.data.eval_results] == [("fnir", 1.25e-8)]
    assert "| IJB-C | fnir | 1.25e-08 |" in rendered.text and "| optim_args | a=1 \\|b=2 |" in rendered.text


def test_thresholds_are_those_of_single_images(render, card):
    card.evaluations = [Evaluation("LFW", {"threshold@far=1e-3": 1.2, "single_image_threshold@far=1e-3": 0.31})]
    assert "| 1e-3 | 0.3100 |" in render(card).text
    card.evaluations = [Evaluation("LFW", {"accuracy": 0.9, "threshold@far=1e-3": 1.2})]  # may be a distance
    assert "cosine similarity at least" not in render(card).text


def test_a_foundation_model_is_cited_too(card, image_processor, measurements):
    inner = {"model_type": "dinov2", "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    model = FoundationFaceModel(FoundationFaceConfig(backbone_config=inner | {"image_size": 28}, image_size=28))
    text = create_model_card(card, model, image_processor, "org/model", measurements).text
    assert "@misc{froundation," in text and "{dinov2," in text


def cited(card: ModelCard) -> list[str]:
    entries = card.text.split("```bibtex\n")[1].split("```")[0]
    return re.findall(r"^@\w+\{(\w+),", entries, flags=re.MULTILINE)


@pytest.mark.parametrize("name, papers", [("elastic_cosface_plus", ["elasticface"]), ("combined", []), ("linear", [])])
def test_the_paper_of_a_margin_is_cited(render, card, backbone, monkeypatch, name, papers):
    monkeypatch.setattr(backbone.config, "margin", {"name": name})
    assert cited(render(card)) == ["resnet", "arcface", *papers, "orl"]


def test_the_paper_of_a_plugins_margin_is_cited_where_it_is_installed(render, card, backbone, monkeypatch):
    monkeypatch.setattr(margins, "_entries", dict(margins))
    monkeypatch.setattr(backbone.config, "margin", {"name": "airface", "m": 0.45})
    assert cited(render(card)) == ["resnet", "arcface", "orl"]
    margins.register("airface", citation="@misc{airface, title = {AirFace}}")(type("AirFaceMargin", (Margin,), {}))
    assert cited(render(card)) == ["resnet", "arcface", "airface", "orl"]
    card.citations = ["airface"]
    assert cited(render(card)) == ["resnet", "arcface", "airface", "orl"]


def test_a_key_has_one_entry_wherever_it_stands():
    """Files that travel to the Hub and those that do not each state their papers."""
    known = known_citations()
    for config_class in FAMILIES:
        for entry in config_class().citations:
            assert known.get(citation_key(entry), entry.strip()) == entry.strip()
    for entry in (bibtex for registry in REGISTRIES for each in registry.values() for bibtex in each.citations):
        assert known[citation_key(entry)] == entry.strip()


@pytest.mark.parametrize("config_class", [IResNetConfig, FoundationFaceConfig])
def test_citations_are_no_setting(config_class, tmp_path):
    config = config_class()
    config.save_pretrained(tmp_path)
    assert config.citations and "citations" not in (tmp_path / "config.json").read_text()
    assert config_class.from_pretrained(tmp_path).citations == config.citations


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"license": "apache2"}, r"license='apache2' is not one of the Hub's identifiers"),
        ({"license": "other", "license_link": "https://x.org"}, r"license_name=None must consist of lowercase"),
        ({"license": "other", "license_name": "Its Own", "license_link": "https://x.org"}, r"license_name='Its Own'"),
        ({"license": "other", "license_name": "its-own"}, r"license_link must link to the terms"),
        ({"base_model": "not a name"}, r"base_model 'not a name' is not a Hub name"),
        ({"training_data": [TrainingData("X", "y", hub_id="a/b/c")]}, r"hub_id of training data 'a/b/c'"),
        ({"evaluations": [Evaluation("LFW", {"accuracy": math.nan})]}, r"metric accuracy of 'LFW' is nan"),
        ({"citations": ["arcfase"]}, r"citation 'arcfase' is neither a BibTeX entry nor one of adaface, .*arcface"),
        ({"thresholds_from": "IJB-C"}, r"thresholds_from='IJB-C' is not an evaluation .* \['ORL'\]"),
    ],
)
def test_metadata_that_the_hub_refuses(render, card, changes, message):
    render(card)
    with pytest.raises(ValueError, match=message):
        render(dataclasses.replace(card, **changes))


def test_the_hub_agrees(hub, render, card):
    """Our own check is no stricter and no laxer than the Hub's on what a card of ours can get wrong."""
    render(card).validate()
    with pytest.raises(ValueError, match=r"license.* with value .*apache2.* is not valid"):
        good = render(card)
        good.data.license = "apache2"
        good.validate()


def test_a_source_has_a_name_and_an_address():
    with pytest.raises(ValueError, match="source_name and source_url belong together"):
        Evaluation("LFW", {"accuracy": 0.9}, source_name="the paper")


def test_card_data_comes_back_from_its_file(card, tmp_path):
    card.figures = ["figures/roc.png"]
    card.save(tmp_path)
    again = FaceModelCardData.load(tmp_path)
    assert again == dataclasses.replace(card, figures=[str(tmp_path / "figures" / "roc.png")])
    (tmp_path / "model_card.json").write_text('{"license": "mit", "licens": "mit", "training_data": []}')
    with pytest.raises(ValueError, match=r"model_card\.json has unknown fields \['licens'\]"):
        FaceModelCardData.load(tmp_path)


def test_emissions_are_those_of_the_last_run(render, card, tmp_path):
    assert read_emissions(tmp_path) is None
    (tmp_path / "emissions.csv").write_text("timestamp,emissions\n2026-01-01,0.5\n2026-01-02,0.0125\n")
    card.emissions_kg = read_emissions(tmp_path)
    rendered = render(card)
    assert rendered.data.co2_eq_emissions["emissions"] == 12.5  # grams
    assert "0.0125 kg CO2 equivalent" in rendered.text
    assert read_emissions(tmp_path, since=time.time() + 10) is None, "of a run before"
    (tmp_path / "emissions.csv").write_text("timestamp,emissions\n")
    assert read_emissions(tmp_path) is None
