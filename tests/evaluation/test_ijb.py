import shutil
from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest

from hf_face.embedding.cache import EmbeddingCache
from hf_face.evaluation import ROC, Embedder
from hf_face.evaluation.comparison_scores import ComparisonScores
from hf_face.evaluation.identification import SearchResult
from hf_face.evaluation.ijb import SWITCHES, IJBEvaluator
from hf_face.evaluation.ijb_files import SubjectTemplates, load_ijb
from hf_face.evaluation.protocols import load_protocol

PEOPLE = 8  # of the miniature


@pytest.fixture
def broken(ijb_folder, tmp_path):
    """A copy with one line of one file changed."""

    def build(name: str, line: int, text: str):
        folder = shutil.copytree(ijb_folder, tmp_path / "IJBC")
        path = folder / "meta" / name
        lines = path.read_text().splitlines()
        lines[line - 1] = text
        path.write_text("\n".join(lines) + "\n")
        return folder

    return build


def expected_template(faces, embed, person: int, template: int, switches: str) -> np.ndarray:
    """The protocol once more, template by template, from faces that never were anything but aligned."""
    medias = {0: [[0, 1], [2]], 1: [[3], [4]], 2: [[5]]}[template]
    total = 0
    for media in medias:
        views = []
        for photograph in media:
            original, flipped = embed(faces[person, photograph])
            feature = original + flipped if switches[5] == "1" else original
            if switches[1] == "0":
                feature = feature / np.linalg.norm(feature)
            if switches[3] == "1":
                feature = feature * (0.5 + 0.05 * photograph + 0.01 * person)
            views.append(feature)
        total = total + np.mean(views, axis=0)
    return total / np.linalg.norm(total)


@pytest.mark.parametrize("switches", ["N1D1F1", "N0D1F0", "N0D0F1"])
def test_whole_protocol(ijb_folder, faces, model, image_processor, switches, tmp_path):
    def embed(face):
        pixels = image_processor([face, np.fliplr(face).copy()], return_tensors="pt").pixel_values
        output = model(pixels)
        return (output.pooler_output * output.norm).detach().numpy()

    ids = [(person, template) for person in range(PEOPLE) for template in range(3)]
    features = np.stack([expected_template(faces, embed, *each, switches) for each in ids])
    first, second = np.array(list(combinations(range(len(ids)), 2))).T
    person, template = np.array(ids).T
    scores = ComparisonScores.from_pairs(person[first] == person[second], (features[first] * features[second]).sum(1))

    evaluator = IJBEvaluator(load_ijb(ijb_folder), switches)
    metrics = evaluator.evaluate(Embedder(model, image_processor), tmp_path)
    assert evaluator.name == ("ijbc" if switches == "N1D1F1" else f"ijbc_{switches}")
    for far in ("1e-1", "1e-2"):
        point = scores.at_far(float(far))
        assert metrics[f"tar@far={far}"] == pytest.approx(point.tar)
        assert metrics[f"threshold@far={far}"] == pytest.approx(point.threshold, abs=1e-5)
    assert metrics["auc"] == pytest.approx(scores.auc)
    every_point = ROC.from_scores(person[first] == person[second], (features[first] * features[second]).sum(1))
    assert metrics["eer"] == pytest.approx(every_point.eer)
    assert "tar@far=1e-3" in evaluator.not_measurable
    assert "tar@far=1e-3" not in metrics
    assert evaluator.not_measurable[-2:] == ["tpir@fpir=1e-2", "tpir@fpir=1e-1"]
    assert evaluator.primary_metric == "tar@far=1e-2"

    probes = template > 0
    hits, tpirs = [], []
    for parity in (0, 1):
        enrolled = (template == 0) & (person % 2 == parity)
        similarity = features[probes] @ features[enrolled].T
        own = person[probes][:, None] == person[enrolled]
        mated = own.any(1)
        mate, impostor = np.where(own, similarity, -9).max(1), np.where(own, -9, similarity).max(1)
        hits.append(mate[mated] > impostor[mated])
        alarm = np.sort(impostor[~mated])[-2]  # of eight non-mated probes, FPIR 0.2 lets one through
        tpirs.append(np.mean((mate > impostor)[mated] & (mate > alarm)[mated]))
    metrics = IJBEvaluator(load_ijb(ijb_folder), switches, fpirs=(0.01, 0.2)).evaluate(Embedder(model, image_processor))
    assert metrics["rank1"] == pytest.approx(np.mean(hits))
    assert metrics["tpir@fpir=2e-1"] == pytest.approx(np.mean(tpirs))
    assert "tpir@fpir=1e-2" not in metrics
    assert 0 < metrics["insightface_rank1"] <= metrics["rank1"]  # one gallery of all people
    assert {path.name for path in tmp_path.iterdir()} == {
        f"{evaluator.name}_{kind}.png" for kind in ("roc", "det", "scores", "cmc")
    }


def test_cache_resumes_and_never_mixes_models(ijb_folder, model, image_processor, tmp_path):
    protocol, cache = load_ijb(ijb_folder), EmbeddingCache(tmp_path, shard_size=20)
    without = IJBEvaluator(protocol)(model, image_processor)
    assert IJBEvaluator(protocol, cache=cache)(model, image_processor) == without
    shards = sorted(tmp_path.rglob("*.safetensors"))
    assert [path.name for path in shards] == [f"{i:05d}-of-00003.safetensors" for i in range(3)]

    shards[1].unlink()
    model.num_calls = 0
    assert IJBEvaluator(protocol, cache=cache)(model, image_processor) == without
    assert model.num_calls == 4  # two batches and their flipped images
    model.projection.weight.data.mul_(-1)
    cache(Embedder(model, image_processor, flip=False), protocol.images)
    assert len(list(tmp_path.rglob("*.safetensors"))) == 6


def test_cache_tells_slices_of_one_data_set_apart(orl, model, image_processor, tmp_path):
    cache, embedder = EmbeddingCache(tmp_path), Embedder(model, image_processor)
    for rows in (range(0, 10), range(10, 20), [3, 1], [1, 3], range(10, 19)):
        images = orl.select(rows)
        np.testing.assert_array_equal(cache(embedder, images).original, embedder(images).original)
    calls = model.num_calls
    cache(embedder, orl.select(range(10, 20)))
    assert model.num_calls == calls


def test_without_mirror_images(ijb_folder, model, image_processor, tmp_path):
    protocol = load_ijb(ijb_folder)
    metrics = IJBEvaluator(protocol, "N1D1F0").evaluate(Embedder(model, image_processor, batch_size=64, flip=False))
    assert model.num_calls == 1
    assert metrics == IJBEvaluator(protocol, "N1D1F0").evaluate(Embedder(model, image_processor))


def test_what_cannot_be_measured_goes_by_the_impostors_and_the_probes_that_are_not_enrolled(ijb_folder):
    protocol = load_ijb(ijb_folder)
    gallery = protocol.galleries["G1"]
    one = replace(gallery, templates=gallery.templates[:1], subjects=gallery.subjects[:1])
    evaluator = IJBEvaluator(replace(protocol, galleries={"G1": one}), fars=[1e-1, 1e-2, 1e-3])
    assert evaluator.not_measurable == ["tar@far=1e-3", "tpir@fpir=1e-2"], "252 impostor pairs, 14 of 16 probes"
    with pytest.raises(ValueError, match="ijbc: 252 impostor pairs are too few for any of the FARs"):
        IJBEvaluator(protocol, fars=[1e-3])
    many = replace(protocol, same=np.arange(100_001) == 0)
    assert IJBEvaluator(many).primary_metric == "tar@far=1e-4"
    assert IJBEvaluator(many, fars=[1e-1, 1e-3]).primary_metric == "tar@far=1e-3"


@pytest.mark.parametrize(("enrolled", "num_ranks"), [((60, 70), 50), ((60, 7), 7)])
def test_cmc_is_drawn_to_rank_50_or_the_size_of_the_smallest_gallery(ijb_folder, enrolled, num_ranks):
    protocol, result = load_ijb(ijb_folder), SearchResult(np.ones((2, 1)), np.ones((2, 1), int), np.zeros(2))
    galleries = {f"G{n}": SubjectTemplates(np.arange(n), np.arange(n), "") for n in enrolled}
    figure = IJBEvaluator(replace(protocol, galleries=galleries))._plot_cmc({"G60": result})
    (line,) = figure.axes[0].lines
    assert line.get_xdata().tolist() == list(range(1, num_ranks + 1))


def test_galleries_of_ijbb(ijb_folder, model, image_processor, tmp_path):
    folder = tmp_path / "IJBB"
    shutil.copytree(ijb_folder, folder)
    for path in (folder / "meta").iterdir():
        name = path.name.replace("ijbc", "ijbb").replace("gallery_G", "gallery_S")
        path.rename(path.with_name(name))
    ijbc = IJBEvaluator(load_ijb(ijb_folder))(model, image_processor)
    ijbb = IJBEvaluator(load_ijb(folder))(model, image_processor)
    assert ijbb == {key.replace("ijbc", "ijbb").replace("_G", "_S"): value for key, value in ijbc.items()}
    assert "ijbb_S2_rank1" in ijbb


def test_folder_without_identification_lists(ijb_folder, model, image_processor, tmp_path, monkeypatch):
    folder = shutil.copytree(ijb_folder, tmp_path / "IJBC")
    for path in (folder / "meta").glob("*_1N_*"):
        path.unlink()
    warnings = []
    monkeypatch.setattr("hf_face.evaluation.ijb.logger.warning", warnings.append)
    IJBEvaluator(load_ijb(ijb_folder))
    assert not warnings
    metrics = IJBEvaluator(load_ijb(folder))(model, image_processor)
    assert warnings == ["ijbc has no 1:N lists in its meta folder: skipping identification"]
    assert "ijbc_auc" in metrics and not [key for key in metrics if "rank" in key]


@pytest.mark.parametrize(
    ("name", "line", "text", "message"),
    [
        ("ijbc_face_tid_mid.txt", 3, "0_2.png 0", r"tid_mid\.txt, line 3: expected 3 fields, found 2"),
        ("ijbc_face_tid_mid.txt", 3, "0_2.png zero 1", r"tid_mid\.txt, line 3: template is 'zero', expected int"),
        (
            "ijbc_face_tid_mid.txt",
            4,
            "other.png 7 1",
            r"tid_mid\.txt, line 4: the image is not the one in the same line",
        ),
        ("ijbc_face_tid_mid.txt", 3, '"0_2.png" 0 6', r"line 3: the image is not the one in the same line"),
        ("ijbc_template_pair_label.txt", 2, "0 14 2", r"label\.txt, line 2: the label is neither 0 nor 1"),
        ("ijbc_1N_gallery_G1.csv", 2, "0", r"G1\.csv, line 2: expected a template and a subject, found 1 fields"),
        (
            "ijbc_1N_probe_mixed.csv",
            3,
            "7,1001,x.png",
            r"mixed\.csv, line 3: template 7 has subject 1001, but 1000 in an earlier line",
        ),
    ],
)
def test_bad_line_is_named(broken, name, line, text, message):
    with pytest.raises(ValueError, match=message):
        load_ijb(broken(name, line, text))


def test_template_without_images_is_named(broken, model, image_processor):
    folder = broken("ijbc_template_pair_label.txt", 5, "0 55 0")
    with pytest.raises(ValueError, match=r"ijbc_template_pair_label\.txt: entry 5 refers to template 55, which has no"):
        IJBEvaluator(load_ijb(folder))(model, image_processor)


def test_a_list_of_templates_and_subjects_alone(broken):
    gallery = load_ijb(broken("ijbc_1N_gallery_G1.csv", 2, "0,1000")).galleries["G1"]
    assert (gallery.templates[0], gallery.subjects[0]) == (0, 1000)


def test_any_white_space_separates(broken):
    folder = broken("ijbc_template_pair_label.txt", 2, "0\t  14 \t1")
    assert load_ijb(folder).pairs[1].tolist() == [0, 14]


def test_missing_files_are_named(tmp_path, ijb_folder):
    with pytest.raises(FileNotFoundError, match=r"contains 0 files \*_face_tid_mid\.txt"):
        load_ijb(tmp_path)
    folder = shutil.copytree(ijb_folder, tmp_path / "IJBC")
    (folder / "meta" / "ijbc_1N_gallery_G2.csv").unlink()
    with pytest.raises(FileNotFoundError, match=r"gallery_G2\.csv is missing"):
        load_ijb(folder)


def test_missing_photographs_and_empty_lists_are_named_before_work_starts(ijb_folder, tmp_path):
    folder = shutil.copytree(ijb_folder, tmp_path / "IJBC")
    (folder / "loose_crop" / "3_2.png").unlink()
    with pytest.raises(
        FileNotFoundError, match=r"1 of the 48 images in .*score\.txt are missing from .*, for example 3_2\.png"
    ):
        load_ijb(folder)
    (folder / "meta" / "ijbc_template_pair_label.txt").write_text("")
    with pytest.raises(ValueError, match=r"pair_label\.txt is empty"):
        load_ijb(folder)


def test_mirror_images_are_asked_for_before_work_starts(ijb_folder, model, image_processor):
    with pytest.raises(ValueError, match="ijbc needs the flipped images"):
        IJBEvaluator(load_ijb(ijb_folder)).evaluate(Embedder(model, image_processor, flip=False))
    assert model.num_calls == 0


def test_unknown_switches_are_named(ijb_folder):
    with pytest.raises(ValueError, match=r"switches are 'N2D1F1', expected one of N1D1F1, N1D1F0, .*, N0D0F0$"):
        IJBEvaluator(load_ijb(ijb_folder), "N2D1F1")
    assert len(SWITCHES) == 8 and set("".join(SWITCHES)) == set("NDF01")


def test_protocol_by_name_builds_one_evaluator_for_each_switch(ijb_folder, tmp_path):
    options = {"data": ijb_folder, "switches": ["N1D1F1", "N0D0F0"], "cache_dir": tmp_path}
    assert [evaluator.name for evaluator in load_protocol({"ijb": options})] == ["ijbc", "ijbc_N0D0F0"]
    named = load_protocol({"ijb": {**options, "name": "mine"}})
    assert [evaluator.name for evaluator in named] == ["mine_ijbc", "mine_ijbc_N0D0F0"]
