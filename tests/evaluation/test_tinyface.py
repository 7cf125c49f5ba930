import numpy as np
import pytest
from scipy.io import savemat

from hf_face.data import load_orl
from hf_face.evaluation import Embedder
from hf_face.evaluation.tinyface import IdentificationEvaluator, enrol_first, load_tinyface


@pytest.fixture(scope="module")
def orl():
    return load_orl()


@pytest.fixture
def tinyface(orl, tmp_path):
    """TinyFace in miniature: of five people three probes and two gallery images, four strangers as distractors."""
    testing = tmp_path / "tinyface" / "Testing_Set"
    rows = {person: np.flatnonzero(np.asarray(orl["label"]) == person) for person in range(9)}
    sets = {"Gallery_Match": {}, "Probe": {}, "Gallery_Distractor": {}}
    for person in range(5):
        for place, row in enumerate(rows[person][:5]):
            sets["Probe" if place < 3 else "Gallery_Match"][f"{person + 1}_{place}.jpg"] = (row, person + 1)
    for person in range(5, 9):
        sets["Gallery_Distractor"][f"{person}.jpg"] = (rows[person][0], None)
    for folder, images in sets.items():
        (testing / folder).mkdir(parents=True)
        for name, (row, _) in images.items():
            orl[int(row)]["image"].save((testing / folder / name).with_suffix(".png"))
    for kind, folder in (("gallery_match", "Gallery_Match"), ("probe", "Probe")):
        prefix = kind.split("_")[0]
        names = np.array([[name] for name in sets[folder]], dtype=object)
        ids = np.array([[person] for _, person in sets[folder].values()])
        savemat(testing / f"{kind}_img_ID_pairs.mat", {f"{prefix}_set": names, f"{prefix}_ids": ids})
    return tmp_path / "tinyface"


def test_tinyface_lists_and_distractors(tinyface):
    gallery, probes = load_tinyface(tinyface)
    assert gallery["label"] == [1, 1, 2, 2, 3, 3, 4, 4, 5, 5] + [-100] * 4
    assert probes["label"] == sorted([1, 2, 3, 4, 5] * 3)


def test_metrics_are_those_of_the_whole_similarity_matrix(tinyface, model, image_processor, tmp_path):
    gallery, probes = load_tinyface(tinyface)
    evaluator = IdentificationEvaluator(gallery, probes, ranks=(1, 2, 5), name="tinyface")
    metrics = evaluator(model, image_processor, tmp_path / "out")
    embedder = Embedder(model, image_processor)
    similarity = embedder(probes).embeddings @ embedder(gallery).embeddings.T
    order = np.argsort(-similarity, axis=1)
    hits = np.asarray(gallery["label"])[order] == np.asarray(probes["label"])[:, None]
    for rank in (1, 2, 5):
        assert metrics[f"tinyface_rank{rank}"] == pytest.approx(hits[:, :rank].any(1).mean())
    found = hits.cumsum(1)
    precision = found / np.arange(1, hits.shape[1] + 1)
    before = np.column_stack([np.ones(len(hits)), precision[:, :-1]])
    assert metrics["tinyface_map"] == pytest.approx(((before + precision) / 2 * hits).sum(1).mean() / 2)
    assert (tmp_path / "out" / "tinyface_cmc.png").stat().st_size > 1000
    assert not [key for key in metrics if "fpir" in key]  # all probes are mated


def test_missing_image_is_named(tinyface):
    (tinyface / "Testing_Set" / "Probe" / "1_1.png").unlink()
    with pytest.raises(FileNotFoundError, match=r"probe_img_ID_pairs\.mat, entry 2: 1_1\.jpg is not in"):
        load_tinyface(tinyface)


def test_list_of_another_format_is_named(tinyface):
    savemat(tinyface / "Testing_Set" / "probe_img_ID_pairs.mat", {"probe_ids": np.ones((2, 1))})
    with pytest.raises(ValueError, match=r"probe_img_ID_pairs\.mat: no variable probe_set"):
        load_tinyface(tinyface)


def test_first_image_of_everybody_is_enrolled(orl):
    gallery, probes = enrol_first(orl)
    assert (len(gallery), len(probes)) == (40, 360)
    assert gallery["label"] == list(range(40))


def test_probes_of_nobody_are_an_error(orl):
    with pytest.raises(ValueError, match="no probe is of a person in the gallery"):
        IdentificationEvaluator(orl.select(range(10)), orl.select(range(20, 30)))
