"""Protocols by name, as recipes and command lines ask for them."""

import doctest
import shutil

import numpy as np
import pytest
from datasets import Dataset, Features, Image
from matplotlib.figure import Figure

from hf_face.data import load_identities
from hf_face.evaluation import Embedder, Evaluator, Findings, load_protocol, load_protocols
from hf_face.evaluation.fairness import load_groups
from hf_face.evaluation.plots import plot_cmc
from hf_face.evaluation.protocol_data import find_pairs
from hf_face.evaluation.protocols import parse_protocol
from hf_face.registry import protocols


@pytest.fixture
def photographs(orl, tmp_path):
    """Twelve people's photographs, five each, as somebody has them: a folder a person."""
    folder = tmp_path / "colleagues"
    for person in range(12):
        for photograph in range(5):
            file = folder / f"s{person}" / f"{photograph}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            orl[10 * person + photograph]["image"].save(file)
    return folder


@pytest.fixture
def fixture_data(orl_pairs, ijb_folder, tinyface, rfw, photographs, tmp_path):
    """Data for every protocol of the registry."""
    pairs = orl_pairs.to_parquet(tmp_path / "pairs_of_orl")
    for name in protocols:
        if "set_name" in protocols[name].presets:
            orl_pairs.to_parquet(tmp_path / "sets" / name)
    data = {"verification": pairs, "quality": pairs, "fairness": rfw, "rfw": rfw, "folder": photographs}
    data |= {"ijb": ijb_folder, "all_pairs": "orl", "identification": "orl", "tinyface": tinyface}
    return {name: data.get(name, tmp_path / "sets") for name in protocols}


def test_every_protocol_loads_by_its_name_and_keeps_its_promises(fixture_data, model, image_processor):
    names = {"verification": "orl", "quality": "orl_quality", "folder": "colleagues", "ijb": "ijbc"}
    embedder = Embedder(model, image_processor, progress=False)
    for name, data in fixture_data.items():
        (evaluator,) = load_protocol({name: {"data": str(data)}})
        assert type(evaluator) is protocols[name].target
        assert evaluator.name == names.get(name, name)
        findings = evaluator.compute(embedder)
        assert evaluator.primary_metric in findings.metrics
        assert not findings.metrics.keys() & set(evaluator.not_measurable)
        leading = next(iter(findings.plots.values()))
        assert isinstance(leading(), Figure)


class CountedPlots(Evaluator):
    name, primary_metric, flip = "counted", "figure", None

    def __init__(self):
        self.drawn = []

    def compute(self, embedder):
        def plot(kind):
            self.drawn.append(kind)
            return plot_cmc({kind: np.ones(3)})

        return Findings({"figure": 1.0}, {kind: lambda kind=kind: plot(kind) for kind in ("cmc", "roc")})


def test_figures_are_drawn_once_and_only_when_asked_for(model, image_processor, tmp_path):
    evaluator, embedder = CountedPlots(), Embedder(model, image_processor)
    assert evaluator.evaluate(embedder) == {"figure": 1.0}
    assert evaluator.drawn == [] and evaluator.lead_figure(tmp_path) is None
    assert evaluator(model, image_processor, tmp_path) == {"counted_figure": 1.0}
    assert evaluator.drawn == ["cmc", "roc"]
    assert {path.name for path in tmp_path.iterdir()} == {"counted_cmc.png", "counted_roc.png"}
    assert evaluator.lead_figure(tmp_path) == tmp_path / "counted_cmc.png"
    assert evaluator.lead_figure(tmp_path / "elsewhere") is None


def test_embedder_without_flipped_images_is_refused_before_work_starts(model, image_processor, orl_pairs, tmp_path):
    (evaluator,) = load_protocol(str(orl_pairs.to_parquet(tmp_path)))
    with pytest.raises(ValueError, match="orl needs the flipped images"):
        evaluator.evaluate(Embedder(model, image_processor, flip=False))
    assert model.num_calls == 0


def test_user_s_own_protocol_is_loaded_by_its_name(monkeypatch, model, image_processor, tmp_path):
    monkeypatch.setattr(protocols, "_entries", dict(protocols._entries))

    @protocols.register("counted", kinds=("roc",))
    class Counted(CountedPlots):
        def __init__(self, kinds=(), title="counted"):
            super().__init__()
            self.kinds, self.title = kinds, title

    (evaluator,) = load_protocol({"counted": {"title": "mine"}})
    assert (evaluator.kinds, evaluator.title) == (("roc",), "mine")
    (named,) = load_protocol({"counted": {"name": "again"}})
    assert named(model, image_processor) == {"again_figure": 1.0}
    assert [each.name for each in load_protocols(["counted", {"counted": {"name": "again"}}])] == ["counted", "again"]
    with pytest.raises(
        ValueError, match=r"'counted': got an unexpected keyword argument 'colour'; its options are: kinds"
    ):
        load_protocol({"counted": {"colour": "blue"}})


def test_example_of_the_docstring(monkeypatch, model, image_processor):
    monkeypatch.setattr(protocols, "_entries", dict(protocols._entries))
    text = Evaluator.__doc__.replace("```python", "").replace("```", "")
    names = {"model": model, "image_processor": image_processor}
    example = doctest.DocTestParser().get_doctest(text, names, "Evaluator", None, None)
    assert doctest.DocTestRunner().run(example, clear_globs=False).failed == 0
    (evaluator,) = load_protocol({"embedding_norms": {"data": "orl"}})
    assert evaluator.primary_metric in evaluator.evaluate(Embedder(model, image_processor))


def test_two_protocols_of_one_name_are_an_error(orl_pairs, tmp_path):
    folder = orl_pairs.to_parquet(tmp_path)
    specs = [str(folder), {"verification": {"data": folder, "flip": "none"}}]
    with pytest.raises(ValueError, match=r"2 protocols of this run are called 'orl'.*name: orl_2"):
        load_protocols(specs)
    specs[1]["verification"]["name"] = "orl_single"
    assert [evaluator.name for evaluator in load_protocols(specs)] == ["orl", "orl_single"]


def test_numbers_and_none_as_yaml_gives_them(orl_pairs, tmp_path):
    folder = orl_pairs.to_parquet(tmp_path)
    (evaluator,) = load_protocol({"verification": {"data": folder, "fars": ["1e-1", 0.05], "flip": "none"}})
    assert (evaluator.fars, evaluator.flip) == ([0.1, 0.05], None)
    (evaluator,) = load_protocol({"quality": {"data": folder, "far": "1e-1"}})
    assert evaluator.far == 0.1
    with pytest.raises(ValueError, match="flip is 'mean', expected 'sum', 'concat' or none"):
        load_protocol({"verification": {"data": folder, "flip": "mean"}})


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("lwf", r"No protocol is called 'lwf'\. Did you mean 'lfw'\?"),
        ({"veriffication": {"data": "x"}}, r"No protocol is called 'veriffication'\. Did you mean 'verification'\?"),
        ("lfw", "'lfw': missing a required argument: 'data'; its options are: data, images, set_name, flip"),
        ({"ijb": {"data": "x", "similarity": "cosine"}}, "'ijb': got an unexpected keyword argument 'similarity'"),
        ({"lfw": {}, "ijb": {}}, r"protocol as a name or as \{name: \{option: value\}\}"),
    ],
)
def test_spec_that_means_nothing_is_named(spec, message):
    with pytest.raises(ValueError, match=message):
        load_protocol(spec)


def test_what_is_data_and_what_a_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for folder in ("pairs", "ijb"):
        (tmp_path / folder).mkdir()
    for data in ("missing.bin", "someone/missing", "pairs"):
        assert parse_protocol(data) == ("verification", {"data": data})
    assert parse_protocol("ijb") == ("ijb", {}), "whatever folders are here"
    for name in ("someone/missing", "nonsense"):
        with pytest.raises(ValueError, match=f"No protocol is called '{name}'"):
            load_protocol({name: {"data": "x"}})


@pytest.mark.parametrize("path", ["lfw.bin", "./pairs", "/data/pairs", "data/lfw/pairs", "data/pairs.csv"])
def test_path_that_is_not_there_is_no_matter_for_the_hub(path):
    for spec in (path, {"quality": {"data": path}}, {"rfw": {"data": path}}, {"folder": {"data": path}}):
        with pytest.raises(FileNotFoundError, match=f"no such file or folder: {path}"):
            load_protocol(spec)


@pytest.mark.parametrize("name", ["ijb", "tinyface"])
def test_folder_that_is_not_there_is_named(name):
    with pytest.raises(FileNotFoundError, match="no such file or folder: nowhere"):
        load_protocol({name: {"data": "nowhere"}})


def test_folder_without_pairs_says_what_was_looked_for(photographs):
    with pytest.raises(
        FileNotFoundError, match=r"no verification pairs: expected .*lfw, .*<set>\.bin.*protocol 'folder'"
    ):
        load_protocol(str(photographs))
    with pytest.raises(FileNotFoundError, match=r"no groups of pairs: expected txts/<group>/<group>_pairs\.txt"):
        load_protocol({"fairness": {"data": photographs}})


def test_file_that_holds_no_pairs_says_what_was_expected(orl_pairs, tmp_path):
    (file,) = (orl_pairs.to_parquet(tmp_path) / "pairs").iterdir()
    for spec in (str(file), {"fairness": {"data": file}}):
        with pytest.raises(
            ValueError, match=r"\.parquet contains no verification pairs: expected a file \.bin, \.txt, \.csv"
        ):
            load_protocol(spec)


def test_pairs_of_a_folder_of_people(photographs):
    (evaluator,) = load_protocol({"folder": {"data": photographs, "seed": 3}})
    pairs = evaluator.pairs
    assert (int(pairs.same.sum()), len(pairs)) == (12 * 10, 2 * 12 * 10)
    labels = np.asarray(load_identities(photographs)["label"])
    np.testing.assert_array_equal(labels[pairs.pairs[:, 0]] == labels[pairs.pairs[:, 1]], pairs.same)
    (other,) = load_protocol({"folder": {"data": photographs, "seed": 4}})
    assert other.pairs.pairs.tolist() != pairs.pairs.tolist()


def test_protocols_of_one_file_share_its_embeddings(model, image_processor, shared_data):
    sample = str(shared_data / "insightface_sample" / "lfw_sample_py3.bin")
    embedder = Embedder(model, image_processor, batch_size=128)
    for evaluator in load_protocols([sample, {"quality": {"data": sample}}]):
        evaluator.evaluate(embedder)
    assert model.num_calls == 2  # one batch and its flipped images


def test_built_in_sets_are_found_as_bin_converted_or_listed(orl_pairs, shared_data, tmp_path):
    sample = shared_data / "insightface_sample" / "lfw_sample_py3.bin"
    (tmp_path / "lfw.bin").symlink_to(sample)
    orl_pairs.to_parquet(tmp_path / "agedb_30")
    for name, image in zip(["Ann/Ann_0001", "Ann/Ann_0002", "Bob/Bob_0001"], orl_pairs.images["image"], strict=False):
        file = tmp_path / "xqlfw_aligned_112" / f"{name}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        image.save(file)
    (tmp_path / "xqlfw_pairs.txt").write_text("2\t1\nAnn\t1\t2\nAnn\t1\tBob\t1\nAnn\t1\t2\nAnn\t2\tBob\t1\n")
    expected = [[0, 1], [0, 2], [0, 1], [1, 2]]
    (tmp_path / "xqlfw").mkdir()  # the photographs as they were before they were aligned
    assert find_pairs(tmp_path, set_name="xqlfw")[0].pairs.tolist() == expected
    aligned = (tmp_path / "xqlfw_aligned_112").rename(tmp_path / "elsewhere")
    for data in (tmp_path, tmp_path / "xqlfw_pairs.txt"):
        (evaluator,) = load_protocol({"xqlfw": {"data": data, "images": aligned}})
        assert (evaluator.name, evaluator.pairs.pairs.tolist()) == ("xqlfw", expected)
    (tmp_path / "xqlfw_pairs.txt").unlink()

    evaluators = load_protocol(str(tmp_path))
    assert [(evaluator.name, len(evaluator.pairs)) for evaluator in evaluators] == [("lfw", 40), ("agedb_30", 360)]
    (evaluator,) = load_protocol({"lfw": {"data": tmp_path, "flip": "none", "similarity": "squared_euclidean"}})
    assert (evaluator.name, evaluator.flip, evaluator.similarity) == ("lfw", None, "squared_euclidean")
    with pytest.raises(FileNotFoundError, match=r"contains no cplfw: expected cplfw\.bin"):
        find_pairs(tmp_path, set_name="cplfw")


@pytest.mark.parametrize("folder", ["", "xqlfw_images"])
def test_images_of_a_listed_set_are_in_a_folder_of_its_name_or_beside_the_list(folder, orl, tmp_path):
    for name in ("Ann/Ann_0001", "Ann/Ann_0002", "Bob/Bob_0001"):
        file = tmp_path / folder / f"{name}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        orl[0]["image"].save(file)
    (tmp_path / "xqlfw_pairs.txt").write_text("1\t1\nAnn\t1\t2\nAnn\t1\tBob\t1\n")
    assert find_pairs(tmp_path, set_name="xqlfw")[0].pairs.tolist() == [[0, 1], [0, 2]]


def test_groups_are_found_as_bins_or_as_a_column(orl_pairs, shared_data, tmp_path):
    sample = shared_data / "insightface_sample"
    for group, file in {"African": "lfw_sample_py3.bin", "Asian": "lfw_sample_py2.bin"}.items():
        (tmp_path / f"{group}.bin").symlink_to(sample / file)
        (tmp_path / f"._{group}.bin").write_bytes(b"\0\5\26\7")  # as macOS leaves them
    assert {name: len(pairs) for name, pairs in load_groups(tmp_path).items()} == {"African": 40, "Asian": 40}
    (evaluator,) = load_protocol({"rfw": {"data": tmp_path, "far": 0.1}})
    assert evaluator.name == "rfw"
    orl_pairs.to_parquet(tmp_path / "orl")
    with pytest.raises(ValueError, match="the pairs have no column 'group'"):
        load_groups(tmp_path / "orl")


def test_photographs_of_rfw_are_aligned(rfw, faces, model, image_processor, tmp_path):
    pairs = load_groups(rfw)["African"]
    names = [path.removesuffix(".jpg").split("_") for path in pairs.images["name"]]
    expected = np.stack([faces[int(person[-1]), int(number) - 1] for person, number in names])
    aligned = Dataset.from_dict({"image": list(expected)}, features=Features({"image": Image()}))
    embedder = Embedder(model, image_processor)
    cosines = (embedder(pairs.images).embeddings * embedder(aligned).embeddings).sum(1)
    assert cosines.min() > 0.995
    photographs = pairs.images.remove_columns("landmarks")
    assert (embedder(photographs).embeddings * embedder(aligned).embeddings).sum(1).max() < 0.99
    for group in ("African", "Asian"):  # aligned copies need no landmarks
        shutil.copytree(rfw / "data" / group, tmp_path / "aligned" / group)
    assert "landmarks" not in load_groups(rfw, tmp_path / "aligned")["Asian"].images.column_names
