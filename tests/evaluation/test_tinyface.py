import numpy as np
import pytest
from datasets import ClassLabel
from scipy.io import savemat

from hf_face.evaluation import Embedder, IdentificationEvaluator, enroll_first, load_tinyface


def test_tinyface_lists_and_distractors(tinyface):
    gallery, probes = load_tinyface(tinyface)
    assert gallery["label"] == [1, 1, 2, 2, 3, 3, 4, 4, 5, 5] + [-100] * 4
    assert probes["label"] == sorted([1, 2, 3, 4, 5] * 3)


def test_metrics_are_those_of_the_whole_similarity_matrix(tinyface, model, image_processor, tmp_path):
    gallery, probes = load_tinyface(tinyface)
    evaluator = IdentificationEvaluator(gallery, probes, ranks=(1, 2, 5), name="tinyface")
    embedder = Embedder(model, image_processor)
    metrics = evaluator.evaluate(embedder, tmp_path / "out")
    similarity = embedder(probes).embeddings @ embedder(gallery).embeddings.T
    order = np.argsort(-similarity, axis=1)
    hits = np.asarray(gallery["label"])[order] == np.asarray(probes["label"])[:, None]
    for rank in (1, 2, 5):
        assert metrics[f"rank{rank}"] == pytest.approx(hits[:, :rank].any(1).mean())
    found = hits.cumsum(1)
    precision = found / np.arange(1, hits.shape[1] + 1)
    before = np.column_stack([np.ones(len(hits)), precision[:, :-1]])
    assert metrics["map"] == pytest.approx(((before + precision) / 2 * hits).sum(1).mean() / 2)
    assert (tmp_path / "out" / "tinyface_cmc.png").stat().st_size > 1000
    assert not [key for key in metrics if "fpir" in key]  # all probes are mated
    assert evaluator.not_measurable == ["tpir@fpir=1e-2", "tpir@fpir=1e-1"]


def test_files_that_are_not_images_are_no_distractors(tinyface):
    expected = load_tinyface(tinyface)[0]["label"]
    for name in ("Thumbs.db", ".DS_Store", "._distractor.png"):
        (tinyface / "Testing_Set" / "Gallery_Distractor" / name).write_bytes(b"not an image")
    assert load_tinyface(tinyface)[0]["label"] == expected


def test_missing_image_is_named(tinyface):
    (tinyface / "Testing_Set" / "Probe" / "1_1.png").unlink()
    with pytest.raises(FileNotFoundError, match=r"probe_img_ID_pairs\.mat, entry 2: 1_1\.jpg is not in"):
        load_tinyface(tinyface)


def test_list_of_another_format_is_named(tinyface):
    savemat(tinyface / "Testing_Set" / "probe_img_ID_pairs.mat", {"probe_ids": np.ones((2, 1))})
    with pytest.raises(ValueError, match=r"probe_img_ID_pairs\.mat: no variable probe_set"):
        load_tinyface(tinyface)


def test_first_image_of_everybody_is_enrolled(orl):
    gallery, probes = enroll_first(orl)
    assert (len(gallery), len(probes)) == (40, 360)
    assert gallery["label"] == list(range(40))


def test_people_of_two_data_sets_are_told_by_name(orl, model, image_processor):
    """Gallery: of ten people the first two photographs. Probes: the others of the last five and of ten strangers, who
    are numbered anew."""
    labels = np.asarray(orl["label"])
    gallery = orl.select([row for person in range(10) for row in np.flatnonzero(labels == person)[:2]])
    names = orl.features["label"].names[5:20]
    probes = orl.select([row for person in range(5, 20) for row in np.flatnonzero(labels == person)[2:]])
    features = probes.features.copy()
    features["label"] = ClassLabel(names=names)
    probes = probes.map(lambda label: {"label": label - 5}, input_columns="label", features=features)

    evaluator = IdentificationEvaluator(gallery, probes, fpirs=(1e-2, 1e-1))
    embedder = Embedder(model, image_processor)
    metrics = evaluator.evaluate(embedder)
    assert evaluator.not_measurable == ["tpir@fpir=1e-2"]  # ten strangers of eight photographs
    scores = embedder(probes).embeddings @ embedder(gallery).embeddings.T
    own = np.array(names)[probes["label"]][:, None] == np.array(orl.features["label"].names)[gallery["label"]]
    mated = own.any(1)
    first = own[np.arange(len(own)), scores.argmax(1)]
    assert metrics["rank1"] == pytest.approx(first[mated].mean())
    alarm = np.sort(scores[~mated].max(1))[-9]  # eight of eighty may be let through
    assert metrics["tpir@fpir=1e-1"] == pytest.approx((first & (scores.max(1) > alarm))[mated].mean())


def test_probes_of_nobody_are_an_error(orl):
    with pytest.raises(ValueError, match="no probe shows a person in the gallery"):
        IdentificationEvaluator(orl.select(range(10)), orl.select(range(20, 30)))
