"""NaN and infinity are refused by every protocol and metric, and so are rates and ranks out of range."""

import math
from dataclasses import replace
from pathlib import Path

import evaluate
import numpy as np
import pytest
import torch
from datasets import Dataset

from hf_face.data import VerificationPairs
from hf_face.embedding import Embedder
from hf_face.evaluation import (
    AllPairsEvaluator,
    ComparisonScores,
    ErrorDiscard,
    Evaluator,
    Findings,
    IdentificationEvaluator,
    QualityEvaluator,
    VerificationEvaluator,
    VerificationFairnessEvaluator,
    all_pairs_scores,
    cross_validated_accuracy,
    enroll_first,
    load_protocol,
    pair_scores,
    pool_templates,
    search,
    verification_metrics,
)
from hf_face.evaluation.ijb import IJBEvaluator
from hf_face.evaluation.ijb_files import load_ijb
from hf_face.evaluation.metrics import ROC, split_folds
from hf_face.evaluation.reference import insightface_accuracy, insightface_val, timm_face_accuracy
from hf_face.evaluation.reference_ijb import (
    insightface_identification,
    insightface_open_set_tpir,
    insightface_tar_at_far,
)

METRICS = Path(__file__).parents[2] / "hf_face" / "metrics"
NOT_FINITE = [float("nan"), float("inf"), -float("inf")]
NOT_RATES = [float("nan"), 0.0, -0.1, 1.5, float("inf")]

RNG = np.random.default_rng(0)
SAME = np.arange(40) % 2 == 0
SCORES = RNG.normal(SAME * 1.0)
FEATURES = torch.from_numpy(RNG.standard_normal((40, 4)))
PEOPLE = np.arange(40) % 10


def broken_scores(value):
    scores = SCORES.copy()
    scores[17] = value
    return scores


def broken_features(value):
    features = FEATURES.clone()
    features[17, 2] = value
    return features


OF_SCORES = {
    "ROC": lambda scores: ROC.from_scores(SAME, scores),
    "ComparisonScores": lambda scores: ComparisonScores.from_pairs(SAME, scores),
    "cross-validated accuracy": lambda scores: cross_validated_accuracy(SAME, scores),
    "verification metrics": lambda scores: verification_metrics(SAME, scores),
    "InsightFace's accuracy": lambda scores: insightface_accuracy(scores, SAME),
    "InsightFace's VAL": lambda scores: insightface_val(scores, SAME, 0.1),
    "timm-face's accuracy": lambda scores: timm_face_accuracy(scores, SAME),
    "error versus discard": lambda quality: ErrorDiscard.from_errors(SAME, quality),
}
OF_FEATURES = {
    "search, probes": lambda features: search(features, PEOPLE, FEATURES, PEOPLE),
    "search, gallery": lambda features: search(FEATURES, PEOPLE, features, PEOPLE),
    "all pairs": lambda features: all_pairs_scores(features, PEOPLE, 0.1),
    "pair scores": lambda features: pair_scores(features, [0, 1], [2, 3]),
    "templates": lambda features: pool_templates(features, np.arange(40), np.arange(40)),
    "InsightFace's identification, probes": lambda features: insightface_identification(
        features, PEOPLE, FEATURES[:10], PEOPLE[:10]
    ),
    "InsightFace's identification, gallery": lambda features: insightface_identification(
        FEATURES[:10], PEOPLE[:10], features, np.arange(40)
    ),
}


@pytest.mark.parametrize("value", NOT_FINITE)
@pytest.mark.parametrize("metric", OF_SCORES)
def test_scores(metric, value):
    OF_SCORES[metric](SCORES)
    with pytest.raises(ValueError, match=rf"\b17 is {value}"):
        OF_SCORES[metric](broken_scores(value))


@pytest.mark.parametrize("value", NOT_FINITE)
@pytest.mark.parametrize("metric", OF_FEATURES)
def test_features(metric, value):
    OF_FEATURES[metric](FEATURES)
    with pytest.raises(ValueError, match=r"\b17.* not finite"):
        OF_FEATURES[metric](broken_features(value))


def test_embeddings_of_nan_alone():
    nan = torch.full((5, 8), float("nan"))
    with pytest.raises(ValueError, match="the probe feature 0 is not finite"):
        search(nan, np.arange(5), torch.eye(10, 8), np.arange(10))


ROC_CURVE = ROC.from_scores(SAME, SCORES)
SORTED_SCORES = ComparisonScores.from_pairs(SAME, SCORES)
SEARCH = search(FEATURES, PEOPLE, FEATURES[:5], PEOPLE[:5])
PAIRS = VerificationPairs(Dataset.from_dict({"image": [0] * 40}), np.arange(80).reshape(40, 2) % 40, SAME, name="set")

OF_RATES = {
    "ROC": lambda rate: ROC_CURVE.at_far(rate),
    "ComparisonScores": lambda rate: SORTED_SCORES.at_far(rate),
    "verification metrics": lambda rate: verification_metrics(SAME, SCORES, fars=[rate]),
    "search": lambda rate: SEARCH.at_fpir(rate),
    "metrics of a search": lambda rate: SEARCH.metrics(fpirs=[rate]),
    "all pairs": lambda rate: all_pairs_scores(FEATURES, PEOPLE, rate),
    "InsightFace's VAL": lambda rate: insightface_val(SCORES, SAME, rate),
    "InsightFace's identification": lambda rate: insightface_identification(
        FEATURES, PEOPLE, FEATURES[:10], PEOPLE[:10], fpirs=[rate]
    ),
    "InsightFace's open set": lambda rate: insightface_open_set_tpir(SEARCH, rate),
    "verification": lambda rate: VerificationEvaluator(PAIRS, fars=[rate]),
    "fairness": lambda rate: VerificationFairnessEvaluator({"a": PAIRS, "b": PAIRS}, far=rate),
    "quality": lambda rate: QualityEvaluator(PAIRS, far=rate),
}


@pytest.mark.parametrize("rate", NOT_RATES)
@pytest.mark.parametrize("metric", OF_RATES)
def test_rates(metric, rate):
    OF_RATES[metric](0.5)
    with pytest.raises(ValueError, match=rf"must be above 0 and at most 1, found {rate:g}"):
        OF_RATES[metric](rate)


@pytest.mark.parametrize("options", [{"fars": "nan"}, {"fars": [2.0]}])
def test_rates_in_a_recipe(options):
    with pytest.raises(ValueError, match="must be above 0 and at most 1, found"):
        load_protocol({"all_pairs": {"data": "orl", **options}})
    with pytest.raises(ValueError, match="fpirs: expected a rate such as 1e-3, found 'few'"):
        load_protocol({"identification": {"data": "orl", "fpirs": "few"}})


@pytest.mark.parametrize("rate", [float("nan"), -0.1, 1.5])
def test_rates_of_insightface_s_table_which_has_a_point_at_zero(rate):
    assert insightface_tar_at_far(SORTED_SCORES, [0])[0].far == 0
    with pytest.raises(ValueError, match="must be above 0 and at most 1"):
        insightface_tar_at_far(SORTED_SCORES, [rate])


@pytest.mark.parametrize("options", [{"fars": [math.nan]}, {"fpirs": [2]}, {"ranks": [0]}])
def test_rates_and_ranks_of_ijb(ijb_folder, options):
    with pytest.raises(ValueError, match=r"(and at most 1|of at least 1), found"):
        IJBEvaluator(load_ijb(ijb_folder), **options)


@pytest.mark.parametrize("rank", [0, -1, 1.5, float("nan"), "5"])
def test_ranks(rank, orl):
    gallery, probes = enroll_first(orl)
    for report in (
        lambda: SEARCH.metrics(ranks=[rank]),
        lambda: IdentificationEvaluator(gallery, probes, ranks=[rank]),
        lambda: insightface_identification(FEATURES, PEOPLE, FEATURES[:10], PEOPLE[:10], ranks=[rank]),
    ):
        with pytest.raises(ValueError, match="a rank must be a whole number of at least 1, found"):
            report()


@pytest.mark.parametrize("discard", [float("nan"), -0.1, 1.1])
def test_shares_to_discard(discard):
    curve = ErrorDiscard.from_errors(SAME, SCORES)
    assert (curve.at(0), curve.area(0)) == (0.5, 0)
    for report in (curve.at, curve.area):
        with pytest.raises(ValueError, match="must be from 0 to 1, found"):
            report(discard)


@pytest.mark.parametrize("label", [float("nan"), -1, 2])
def test_labels_that_are_neither_true_nor_false(label):
    same = np.where(np.arange(40) == 17, label, SAME)
    for report in (lambda: verification_metrics(same, SCORES), lambda: ErrorDiscard.from_errors(same, SCORES)):
        with pytest.raises(ValueError, match=rf"17 is labeled {label}.*, expected 1 or 0"):
            report()


@pytest.mark.parametrize("fold", [np.arange(40) / 4, np.where(SAME, np.nan, 1), np.arange(39), ["a"] * 40])
def test_folds_that_are_not_whole_numbers_of_every_pair(fold):
    with pytest.raises(ValueError, match="expected a whole number per pair as its fold"):
        verification_metrics(SAME, SCORES, fold)


def test_a_fold_may_have_any_number():
    splits = split_folds(SAME, np.arange(40) // 20 - 1)  # scikit-learn would leave out the fold -1
    assert [test.tolist() for _, test in splits] == [list(range(20)), list(range(20, 40))]


class NoModel(torch.nn.Module):
    """Embeds to `value` what lies beyond the first three batches of eight, and to ones before."""

    def __init__(self, model, value):
        super().__init__()
        self.model, self.value, self.batches = model, value, 0

    def forward(self, pixel_values):
        output = self.model(pixel_values)
        self.batches += 1
        return output if self.batches <= 3 else replace(output, norm=output.norm * self.value)


@pytest.mark.parametrize("value", NOT_FINITE)
def test_a_model_with_embeddings_that_are_not_finite(model, image_processor, orl, value):
    embedder = Embedder(NoModel(model, value), image_processor, batch_size=8, flip=False, progress=False)
    with pytest.raises(ValueError, match=r"the embedding of the image .*\(?row 24\)? is not finite"):
        embedder(orl.select(range(30)))


def test_every_protocol_of_a_model_of_nan(model, image_processor, orl, orl_pairs):
    torch.nn.init.constant_(model.projection.weight, float("nan"))
    gallery, probes = enroll_first(orl)
    for evaluator in (
        VerificationEvaluator(orl_pairs),
        QualityEvaluator(orl_pairs, far=0.05),
        VerificationFairnessEvaluator({"a": orl_pairs, "b": orl_pairs}),
        AllPairsEvaluator(orl),
        IdentificationEvaluator(gallery, probes),
    ):
        with pytest.raises(ValueError, match="is not finite"):
            evaluator(model, image_processor)


def test_a_metric_of_a_protocol_of_one_s_own(model, image_processor):
    class Mean(Evaluator):
        name, primary_metric, flip = "mine", "mean", None

        def compute(self, embedder):
            return Findings({"mean": float("nan")})

    with pytest.raises(ValueError, match="mine: the metric mean is nan"):
        Mean()(model, image_processor)


def test_a_quality_that_is_not_finite(orl_pairs):
    images = orl_pairs.images
    quality = np.where(np.arange(len(images)) == 3, np.nan, 1.0)
    for given in (quality, "sharpness"):
        pairs = replace(orl_pairs, images=images.add_column("sharpness", quality))
        with pytest.raises(ValueError, match="the quality in orl of image 3 is nan"):
            QualityEvaluator(pairs, given, far=0.05)


@pytest.mark.parametrize("column", [3, 11])
def test_a_list_of_ijb_with_a_number_that_is_not_finite(ijb_folder, column):
    path = ijb_folder / "meta" / "ijbc_name_5pts_score.txt"
    before = path.read_text()
    lines = before.splitlines()
    fields = lines[1].split()
    fields[column] = "nan"
    path.write_text("\n".join([lines[0], " ".join(fields), *lines[2:]]) + "\n")
    try:
        with pytest.raises(ValueError, match=r"ijbc_name_5pts_score\.txt, line 2: (x2|score) is not finite"):
            load_ijb(ijb_folder)
    finally:
        path.write_text(before)


def compute(name, **arguments):
    return evaluate.load(str(METRICS / name)).compute(**arguments)


def test_modules_of_evaluate():
    value = float("nan")
    with pytest.raises(ValueError, match=f"the score of pair 17 is {value}"):
        compute("face_verification", predictions=broken_scores(value), references=SAME.astype(int))
    with pytest.raises(ValueError, match=f"the quality of comparison 17 is {value}"):
        compute("error_versus_discard", predictions=broken_scores(value), references=SAME.astype(int))
    faces = {"references": PEOPLE, "gallery_references": PEOPLE.tolist()}
    for probes, gallery, side in (
        (broken_features(value), FEATURES, "probe"),
        (FEATURES, broken_features(value), "gallery"),
    ):
        with pytest.raises(ValueError, match=f"the {side} feature 17 is not finite"):
            compute("face_identification", predictions=probes.tolist(), gallery=gallery.tolist(), **faces)


def test_modules_of_evaluate_refuse_rates_and_ranks():
    pairs = {"predictions": SCORES, "references": SAME.astype(int)}
    faces = {"predictions": FEATURES.tolist(), "references": PEOPLE}
    faces |= {"gallery": FEATURES.tolist(), "gallery_references": PEOPLE.tolist()}
    for name, arguments in (
        ("face_verification", pairs | {"fars": [math.nan]}),
        ("face_verification", pairs | {"fars": [2.0]}),
        ("face_identification", faces | {"fpirs": [0.0]}),
        ("face_identification", faces | {"ranks": [0]}),
        ("error_versus_discard", pairs | {"discards": [-0.5]}),
    ):
        with pytest.raises(ValueError, match=r"must be .*, found (nan|2|0|-0\.5)$"):
            compute(name, **arguments)
