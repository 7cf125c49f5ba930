"""Pairs from the file formats in which protocols are published."""

import pickle
import unicodedata

import numpy as np
import pytest
from datasets import Value

from hf_face.data import VerificationPairs, load_verification_pairs, make_verification_pairs
from hf_face.data.columns import encoded_images

LFW_LIST = """2\t1
s1\t1\t2
s1\t3\ts2\t10
s2\t1\t3
s2\t2\ts10\t1
"""


@pytest.fixture(scope="module")
def images(orl) -> dict[str, bytes]:
    """Images of three people with LFW's names: `s1/s1_0001` ..."""
    rows = [*range(20), *range(90, 100)]
    names = [f"s{row // 10 + 1}_{row % 10 + 1:04d}" for row in rows]
    return dict(zip(names, encoded_images(orl, rows), strict=True))


def write_images(folder, images, nested=True, suffix=".png"):
    for name, image in images.items():
        path = folder / (name.split("_")[0] if nested else "") / f"{name}{suffix}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(image)
    return folder


def image(pairs: VerificationPairs, pair: int, side: int) -> bytes:
    return encoded_images(pairs.images, [pairs.pairs[pair, side]])[0]


@pytest.mark.parametrize("nested", [True, False])
def test_pairs_txt(tmp_path, images, nested):
    write_images(tmp_path / "lfw", images, nested, suffix=".jpg" if nested else ".png")
    (tmp_path / "pairs.txt").write_text(LFW_LIST)
    pairs = load_verification_pairs(tmp_path / "pairs.txt", tmp_path / "lfw", name="lfw")
    assert pairs.name == "lfw"
    assert pairs.same.tolist() == [True, False, True, False]
    assert pairs.fold.tolist() == [0, 0, 1, 1]
    assert image(pairs, 1, 0) == images["s1_0003"] and image(pairs, 1, 1) == images["s2_0010"]
    assert image(pairs, 3, 1) == images["s10_0001"]
    assert len(pairs.images) == 8  # only what the list needs


def test_pairs_txt_of_one_set(tmp_path, images):
    write_images(tmp_path, images)
    (tmp_path / "pairsDevTest.txt").write_text(LFW_LIST.replace("2\t1\n", "2\n", 1))
    pairs = load_verification_pairs(tmp_path / "pairsDevTest.txt")
    assert pairs.name == "pairsDevTest" and pairs.fold is None and len(pairs) == 4


def test_pairs_txt_without_a_header(tmp_path, images):
    write_images(tmp_path, images)
    (tmp_path / "African_pairs.txt").write_text(LFW_LIST.removeprefix("2\t1\n").replace("\ns2", "\n\ns2", 1))
    pairs = load_verification_pairs(tmp_path / "African_pairs.txt")
    assert pairs.same.tolist() == [True, False, True, False] and pairs.fold is None
    assert image(pairs, 0, 0) == images["s1_0001"] and image(pairs, 3, 1) == images["s10_0001"]


def test_landmarks_of_the_images_of_a_list(tmp_path, images):
    write_images(tmp_path, images, suffix=".jpg")
    (tmp_path / "pairs.txt").write_text(LFW_LIST)
    lines = [
        f"/test/data/x/{name}.jpg\t0\t" + "\t".join(f"{row}.{i}" for i in range(10)) for row, name in enumerate(images)
    ]
    (tmp_path / "lmk.txt").write_text("\n".join(lines) + "\n")
    pairs = load_verification_pairs(tmp_path / "pairs.txt", landmarks=tmp_path / "lmk.txt")
    row = list(images).index("s10_0001")
    assert pairs.images[int(pairs.pairs[3, 1])]["landmarks"] == [row + i / 10 for i in range(10)]

    (tmp_path / "lmk.txt").write_text("\n".join(lines[1:]))
    with pytest.raises(ValueError, match=r"lmk.txt: no landmarks for 1 of 8 images, for example 's1_0001'"):
        load_verification_pairs(tmp_path / "pairs.txt", landmarks=tmp_path / "lmk.txt")
    (tmp_path / "lmk.txt").write_text("\n".join([*lines, "x.jpg 0 1 2 3"]))
    with pytest.raises(ValueError, match=r"lmk.txt, line 31: expected a file, a label and ten coordinates"):
        load_verification_pairs(tmp_path / "pairs.txt", landmarks=tmp_path / "lmk.txt")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("s1\t1\n", "the first line must be '<folds> <pairs>' or a pair, found 's1\\\\t1'"),
        ("", "the first line must be '<folds> <pairs>' or a pair"),
        ("s1\t1\t2\ns1\t1\n", r"pairs.txt, line 2: expected 'name i j'"),
        (LFW_LIST + "s1\tone\t2\n", r"pairs.txt, line 6: expected 'name i j'"),
        ("s1 1 two", r"pairs.txt, line 1: expected 'name i j'"),
        ("s1 1 s2 two", r"pairs.txt, line 1: expected 'name i j'"),
        ("3 1\n" + LFW_LIST[4:], r"expected 6 pairs from the first line, '3 1', found 4"),
    ],
)
def test_bad_pairs_txt(tmp_path, images, text, message):
    write_images(tmp_path, images)
    (tmp_path / "pairs.txt").write_text(text)
    with pytest.raises(ValueError, match=message):
        load_verification_pairs(tmp_path / "pairs.txt")


CSV = "fold,file_a,file_b,same,group\n0,s1_0001.jpg,s1_0002.jpg,1,x\n1,s1_0001.jpg,s2_0001.jpg,0,y\n"


def test_csv_with_a_folder(tmp_path, images):
    write_images(tmp_path / "faces", images, nested=False)
    (tmp_path / "pairs.csv").write_text(CSV)
    pairs = load_verification_pairs(tmp_path / "pairs.csv", tmp_path / "faces")
    assert pairs.same.tolist() == [True, False]
    assert pairs.fold.tolist() == [0, 1] and pairs.group.tolist() == ["x", "y"]
    assert len(pairs.images) == 3
    assert pairs.images["name"][:] == ["s1_0001.png", "s1_0002.png", "s2_0001.png"]
    assert image(pairs, 1, 1) == images["s2_0001"]


def test_csv_of_the_same_names_in_several_folders(tmp_path, images):
    for person, name in (("a", "s1_0001"), ("b", "s2_0001")):
        write_images(tmp_path / person, {"1": images[name]}, nested=False)
    (tmp_path / "pairs.csv").write_text("file_a,file_b,same\na/1.png,b/1.png,0\n")
    pairs = load_verification_pairs(tmp_path / "pairs.csv")
    assert image(pairs, 0, 0) == images["s1_0001"] and image(pairs, 0, 1) == images["s2_0001"]
    assert pairs.fold is None


def test_csv_with_parquet(tmp_path, orl, images):
    dataset = orl.select(range(20)).add_column("file_name", list(images)[:20], feature=Value("string"))
    dataset.to_parquet(tmp_path / "faces.parquet")
    (tmp_path / "pairs.csv").write_text(CSV)
    pairs = load_verification_pairs(tmp_path / "pairs.csv", tmp_path / "faces.parquet")
    assert image(pairs, 1, 1) == images["s2_0001"]
    assert pairs.images.column_names == ["image", "name"]
    with pytest.raises(ValueError, match="no column 'file_name'"):
        load_verification_pairs(tmp_path / "pairs.csv", orl)


def test_csv_of_lfw(shared_data):
    folder = shared_data / "lfw_112"
    pairs = load_verification_pairs(folder / "validation_pairs.csv", folder / "validation.parquet")
    assert len(pairs) == 1240 and pairs.same.mean() == 0.5
    assert len(np.unique(pairs.fold)) == 10
    people = np.array([name.rsplit("_", 1)[0] for name in pairs.images["name"]])[pairs.pairs]
    assert ((people[:, 0] == people[:, 1]) == pairs.same).all()


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        (CSV.replace("file_b", "other"), ValueError, r"pairs.csv has no column 'file_b'"),
        (CSV.replace("1,x", "2,x"), ValueError, r"pairs.csv, line 2: same must be 0 or 1, found"),
        (CSV.replace("1,s1", "1.7,s1"), ValueError, r"pairs.csv, line 3: fold must be an integer, found .*1.7"),
        (CSV.replace("1,s1", ",s1"), ValueError, r"pairs.csv, line 3: fold must be an integer, found .*nan"),
        (CSV.replace("1,s1", "x,s1"), ValueError, r"pairs.csv, line 2: fold must be an integer, found '0'"),
        (CSV.replace(",s2_0001.jpg", ","), ValueError, r"pairs.csv, line 3: file_b must be a file name, found ''"),
        (CSV.replace(",0,y", ",,y"), ValueError, r"pairs.csv, line 3: same must be 0 or 1, found .*nan"),
        ("", ValueError, r"pairs.csv is not a CSV file with the columns file_a, file_b and same: Empty"),
        ("file_a,file_b,same\n", ValueError, r"pairs.csv has no pairs"),
        (CSV.replace("s2_0001", "s3_0001"), FileNotFoundError, r"1 of its 3 images are not in .*'s3_0001'"),
    ],
)
def test_bad_csv(tmp_path, images, text, error, message):
    write_images(tmp_path, images, nested=False)
    (tmp_path / "pairs.csv").write_text(text)
    with pytest.raises(error, match=message):
        load_verification_pairs(tmp_path / "pairs.csv")


def test_two_images_of_one_name(tmp_path, images):
    write_images(tmp_path, images, nested=False)
    write_images(tmp_path, images, nested=False, suffix=".jpg")
    (tmp_path / "pairs.csv").write_text(CSV)
    with pytest.raises(ValueError, match=r"2 images in .* are named 's1_0001'"):
        load_verification_pairs(tmp_path / "pairs.csv")


def test_bin_holds_each_photograph_once(tmp_path, images):
    a, b, c = list(images.values())[:3]
    (tmp_path / "lfw.bin").write_bytes(pickle.dumps(([a, b, c, a], [True, False])))
    pairs = load_verification_pairs(tmp_path / "lfw.bin")
    assert pairs.name == "lfw" and len(pairs.images) == 3
    assert pairs.pairs.tolist() == [[0, 1], [2, 0]] and pairs.same.tolist() == [True, False]
    assert pairs.images[2]["image"].size == (92, 112)


def test_parquet_folder(tmp_path, orl):
    pairs = make_verification_pairs(orl.select(range(20)), name="orl")
    pairs.to_parquet(tmp_path / "written")
    assert load_verification_pairs(tmp_path / "written").name == "orl"
    assert load_verification_pairs(str(tmp_path / "written"), name="other").name == "other"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_texts_from_other_systems(tmp_path, images, encoding, newline):
    write_images(tmp_path, images)
    for text in (LFW_LIST, LFW_LIST.removeprefix("2\t1\n")):
        (tmp_path / "pairs.txt").write_bytes(text.replace("\n", newline).encode(encoding))
        pairs = load_verification_pairs(tmp_path / "pairs.txt")
        assert pairs.same.tolist() == [True, False, True, False]
        assert image(pairs, 3, 1) == images["s10_0001"]
    (tmp_path / "pairs.txt").write_bytes(b"1\t1\ns\xe9\t1\t2\n")
    with pytest.raises(ValueError, match=r"pairs.txt is not a text in UTF-8"):
        load_verification_pairs(tmp_path / "pairs.txt")


@pytest.mark.parametrize("on_disk", ["NFC", "NFD"])
@pytest.mark.parametrize("in_list", ["NFC", "NFD"])
def test_accents_composed_and_decomposed(tmp_path, images, on_disk, in_list):
    name = unicodedata.normalize(on_disk, "Zoë_Añez")
    for i in (1, 2):
        path = tmp_path / "faces" / name / f"{name}_{i:04d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(images[f"s1_{i:04d}"])
    listed = unicodedata.normalize(in_list, "Zoë_Añez")
    (tmp_path / "pairs.txt").write_text(f"{listed}\t1\t2\n", encoding="utf-8")
    (tmp_path / "pairs.csv").write_text(
        f"file_a,file_b,same\n{listed}/{listed}_0001.jpg,{listed}/{listed}_0002.jpg,1\n", encoding="utf-8-sig"
    )
    for listing in ("pairs.txt", "pairs.csv"):
        pairs = load_verification_pairs(tmp_path / listing, tmp_path / "faces")
        assert image(pairs, 0, 0) == images["s1_0001"] and image(pairs, 0, 1) == images["s1_0002"]


@pytest.mark.parametrize(
    "spelled",
    [
        "{}/{}.png",
        "./{}/{}.png",
        "{}\\{}.jpg",
        ".\\{}\\{}.png",
        "{}//../{}/{}.png",
        "/elsewhere/lfw/{}/{}.png",
        "C:\\Users\\x\\lfw\\{}\\{}.png",
        "\\\\server\\lfw\\{}\\{}.png",
        "../faces/{}/{}.png",
        "../{}/{}.png",
        "ABSOLUTE/{}/{}.png",
    ],
)
def test_paths_from_other_systems(tmp_path, images, spelled):
    write_images(tmp_path / "faces", images)
    spelled = spelled.replace("ABSOLUTE", str(tmp_path / "faces"))

    def spell(name):
        person = name.split("_")[0]
        return spelled.format(*[person] * (spelled.count("{}") - 1), name)

    lines = [
        f"{spell(a)},{spell(b)},{int(a[:2] == b[:2])}" for a, b in (("s1_0001", "s1_0002"), ("s2_0003", "s1_0002"))
    ]
    (tmp_path / "pairs.csv").write_text("\n".join(["file_a,file_b,same", *lines, ""]))
    pairs = load_verification_pairs(tmp_path / "pairs.csv", tmp_path / "faces")
    assert len(pairs.images) == 3 and pairs.same.tolist() == [True, False]
    assert image(pairs, 1, 0) == images["s2_0003"] and image(pairs, 1, 1) == images["s1_0002"]


def test_paths_from_elsewhere_do_not_match_other_peoples_files(tmp_path, images):
    write_images(tmp_path / "faces", {"s1_0001": images["s1_0001"]}, nested=False)
    write_images(tmp_path / "faces" / "a", {"s1_0002": images["s1_0002"]}, nested=False)
    (tmp_path / "pairs.csv").write_text("file_a,file_b,same\n/x/b/s1_0001.png,/x/a/s1_0002.png,1\n")
    with pytest.raises(FileNotFoundError, match=r"1 of its 2 images are not in .*, for example 'b/s1_0001'"):
        load_verification_pairs(tmp_path / "pairs.csv", tmp_path / "faces")


def test_the_same_name_twice_is_the_same_person(tmp_path, images):
    write_images(tmp_path, images)
    lines = ["s1 1 s1 2", "s1 1 s2 2", "s10 1 s10 2"]
    (tmp_path / "pairs.txt").write_text("\n".join(lines))
    assert load_verification_pairs(tmp_path / "pairs.txt").same.tolist() == [True, False, True]


def test_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no such file or folder: .*lfw\.bin"):
        load_verification_pairs(tmp_path / "lfw.bin")
