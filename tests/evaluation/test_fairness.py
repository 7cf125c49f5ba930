from dataclasses import replace

import numpy as np
import pytest

from hf_face.evaluation import (
    Embedder,
    Evaluator,
    FairnessEvaluator,
    Findings,
    VerificationFairnessEvaluator,
    split_by_group,
)


class Fixed(Evaluator):
    """A protocol whose figures are known."""

    flip = None
    not_measurable = ("tar@far=1e-6",)

    def __init__(self, name: str, **metrics):
        self.name = name
        self.primary_metric = next(iter(metrics))
        self.metrics = metrics

    def compute(self, embedder):
        return Findings(self.metrics)


@pytest.fixture
def grouped(orl_pairs):
    return replace(orl_pairs, group=np.array(["b", "a"])[np.arange(len(orl_pairs)) % 3 // 2])


def test_spread_over_four_groups():
    accuracies = {"african": 0.90, "asian": 0.92, "caucasian": 0.98, "indian": 0.96}
    groups = {group: Fixed(f"rfw_{group}", accuracy=value, threshold=0.3) for group, value in accuracies.items()}
    metrics = FairnessEvaluator(groups, name="rfw").evaluate(None)
    assert metrics["asian_accuracy"] == 0.92
    assert metrics["accuracy_mean"] == pytest.approx(0.94)
    assert metrics["accuracy_std"] == pytest.approx((0.004 / 3) ** 0.5)  # the sample's: over three, not four
    assert metrics["accuracy_gap"] == pytest.approx(0.08)
    assert metrics["accuracy_min"] == 0.90
    assert metrics["accuracy_ser"] == pytest.approx(0.10 / 0.02)
    assert not any("threshold_" in key for key in metrics)


def test_only_rates_that_all_groups_have_are_compared():
    groups = {"a": Fixed("a", accuracy=1.0, eer=0.1), "b": Fixed("b", accuracy=0.9)}
    evaluator = FairnessEvaluator(groups)
    metrics = evaluator.evaluate(None)
    assert metrics["a_eer"] == 0.1
    assert "eer_mean" not in metrics
    assert "accuracy_ser" not in metrics  # group a makes no error
    assert metrics[evaluator.primary_metric] == 0.9


def test_where_smaller_is_better_the_worst_group_has_the_largest_value():
    groups = {"a": Fixed("a", erc_area=0.02), "b": Fixed("b", erc_area=0.05)}
    for group in groups.values():
        group.greater_is_better = False
    evaluator = FairnessEvaluator(groups)
    metrics = evaluator.evaluate(None)
    assert (evaluator.primary_metric, evaluator.greater_is_better) == ("erc_area_max", False)
    assert metrics["erc_area_max"] == 0.05
    assert metrics["erc_area_ser"] == pytest.approx(2.5)


def test_what_a_group_cannot_measure_is_named():
    evaluator = FairnessEvaluator({"a": Fixed("rfw_a", accuracy=0.9), "b": Fixed("b", accuracy=0.8)}, name="rfw")
    assert evaluator.not_measurable == ["a_tar@far=1e-6", "b_tar@far=1e-6"]


def test_common_threshold_is_by_default_of_a_far_that_the_pairs_show(model, image_processor, grouped):
    metrics = VerificationFairnessEvaluator(split_by_group(grouped), "orl")(model, image_processor)
    assert "orl_threshold@far=1e-2" in metrics and "orl_a_fnmr@far=1e-2" in metrics


def test_groups_are_embedded_once_and_drawn_together(model, image_processor, grouped, tmp_path):
    evaluator = VerificationFairnessEvaluator(split_by_group(grouped), "orl", far=0.05)
    metrics = evaluator.evaluate(Embedder(model, image_processor, batch_size=40), tmp_path)
    assert model.num_calls == 2  # both groups' images are the same forty
    assert metrics[evaluator.primary_metric] == min(metrics["a_accuracy"], metrics["b_accuracy"])
    kinds = ("roc_by_group", *(f"{group}_{kind}" for group in "ab" for kind in ("roc", "det", "scores")))
    assert {path.name for path in tmp_path.iterdir()} == {f"orl_{kind}.png" for kind in kinds}
    assert evaluator.lead_figure(tmp_path) == tmp_path / "orl_roc_by_group.png"


def test_common_threshold_gives_the_far_over_all_groups(model, image_processor, grouped):
    embedder = Embedder(model, image_processor)
    metrics = VerificationFairnessEvaluator(split_by_group(grouped), "orl", far=0.05).evaluate(embedder)
    embeddings = embedder(grouped.images).embeddings.astype(float)
    scores = (embeddings[grouped.pairs[:, 0]] * embeddings[grouped.pairs[:, 1]]).sum(1)
    accepted = scores >= metrics["threshold@far=5e-2"] - 1e-12
    assert accepted[~grouped.same].mean() == 9 / 180
    for group in "ab":
        rows = grouped.group == group
        assert metrics[f"{group}_fmr@far=5e-2"] == accepted[rows & ~grouped.same].mean()
        assert metrics[f"{group}_fnmr@far=5e-2"] == 1 - accepted[rows & grouped.same].mean()
    gap = metrics["a_fmr@far=5e-2"] - metrics["b_fmr@far=5e-2"]
    assert metrics["fmr@far=5e-2_gap"] == pytest.approx(abs(gap))


def test_split_keeps_every_pair_with_its_fold(grouped):
    groups = split_by_group(grouped)
    assert sorted(groups) == ["a", "b"]
    assert sum(len(pairs) for pairs in groups.values()) == len(grouped)
    rows = grouped.group == "a"
    assert groups["a"].pairs.tolist() == grouped.pairs[rows].tolist()
    assert groups["a"].same.tolist() == grouped.same[rows].tolist()
    assert groups["a"].fold.tolist() == grouped.fold[rows].tolist()


def test_unusable_groups_are_named(orl_pairs, grouped):
    with pytest.raises(ValueError, match="orl: the pairs have no column 'group'"):
        split_by_group(orl_pairs)
    with pytest.raises(ValueError, match=r"rfw: fairness requires at least two groups, found \['a'\]"):
        FairnessEvaluator({"a": Fixed("a", accuracy=1.0)}, name="rfw")
    with pytest.raises(ValueError, match=r"fairness: FAR 0\.001 is not measurable with 180 impostor pairs"):
        VerificationFairnessEvaluator(split_by_group(grouped), far=1e-3)
