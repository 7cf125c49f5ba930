"""Verification pairs: made, checked, written and read back."""

import numpy as np
import pytest
from datasets import Dataset, load_dataset

from hf_face.data import VerificationPairs, make_verification_pairs, select_identities, split_identities
from hf_face.data.columns import encoded_images, identity_labels


@pytest.fixture(scope="module")
def held_out(orl):
    return split_identities(orl, num_held_out=10, seed=0)[1]


def test_every_genuine_pair_once_and_as_many_impostors(held_out):
    pairs = make_verification_pairs(held_out, seed=0, name="orl")
    labels = identity_labels(held_out)
    assert len(pairs) == 900 and pairs.name == "orl"
    assert (pairs.same == (labels[pairs.pairs[:, 0]] == labels[pairs.pairs[:, 1]])).all()
    assert pairs.same.sum() == 10 * 45
    assert len({frozenset(pair) for pair in pairs.pairs.tolist()}) == 900  # distinct, and never an image with itself


def test_folds_are_balanced_and_consecutive(held_out):
    pairs = make_verification_pairs(held_out)
    assert (np.bincount(pairs.fold) == 90).all()
    assert (np.bincount(pairs.fold, weights=pairs.same) == 45).all()
    assert (np.diff(pairs.fold) >= 0).all()
    people = identity_labels(held_out)[pairs.pairs[pairs.same][:, 0]]
    assert len(np.unique(people[:45])) > 5  # a fold's genuine pairs are of many people


def test_every_fold_has_as_many_genuine_as_impostor_pairs(orl):
    pairs = make_verification_pairs(select_identities(orl, 3, 4))  # 18 genuine pairs for ten folds
    assert (np.bincount(pairs.fold[pairs.same]) == np.bincount(pairs.fold[~pairs.same])).all()


def test_seed_decides(held_out):
    pairs = make_verification_pairs(held_out, seed=1).pairs
    assert (pairs == make_verification_pairs(held_out, seed=1).pairs).all()
    assert (pairs != make_verification_pairs(held_out, seed=2).pairs).any()


def test_a_seed_stands_for_the_same_pairs_in_every_version(orl):
    pairs = make_verification_pairs(select_identities(orl, 5, 2))
    assert pairs.pairs[~pairs.same].tolist() == [[6, 8], [6, 9], [2, 6], [3, 9], [0, 7]]
    assert sorted(pairs.pairs[pairs.same].tolist()) == [[0, 1], [2, 3], [4, 5], [6, 7], [8, 9]]


def test_the_card_counts_pairs_of_both_kinds(orl):
    pairs = VerificationPairs(orl.select(range(4)), [[0, 1], [0, 2], [0, 3]], [True, False, False])
    assert "4 images, 1 pairs of the same person and 2 of different people" in pairs._card().text


def test_impostors_that_do_not_exist(orl):
    with pytest.raises(ValueError, match="no identity has two images"):
        make_verification_pairs(select_identities(orl, 5, 1))
    with pytest.raises(
        ValueError,
        match=r"45 impostor pairs are required, as many as genuine ones, but 10 images have only 0\. Add people$",
    ):
        make_verification_pairs(select_identities(orl, 1))


def test_all_impostors_are_found_when_all_are_needed(orl):
    pairs = make_verification_pairs(select_identities(orl, 2, 3).select([0, 1, 2, 3]))  # 3 genuine, 3 impostor pairs
    assert {tuple(pair) for pair in pairs.pairs[~pairs.same].tolist()} == {(0, 3), (1, 3), (2, 3)}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"pairs": [[0, 1, 2]]}, r"shape \(P, 2\)"),
        ({"pairs": [0, 1]}, r"shape \(P, 2\), found \(2,\)"),
        ({"pairs": [[0, 4], [1, 2]]}, r"pair 0 is \(0, 4\), but there are only 4 images"),
        ({"same": [True]}, r"2 pairs, but same has shape \(1,\)"),
        ({"fold": [0, 1, 2]}, r"2 pairs, but fold has shape \(3,\)"),
    ],
)
def test_checks(orl, change, message):
    good = {"pairs": [[0, 1], [2, 3]], "same": [True, False], "name": "t"}
    VerificationPairs(orl.select(range(4)), **good)
    with pytest.raises(ValueError, match=message):
        VerificationPairs(orl.select(range(4)), **(good | change))


def test_parquet_round_trip(held_out, tmp_path):
    pairs = make_verification_pairs(held_out, name="orl_10")
    pairs.group = np.where(pairs.fold < 5, "first", "second")
    pairs.to_parquet(tmp_path / "pairs")
    read = VerificationPairs.from_parquet(pairs.to_parquet(tmp_path / "pairs"))  # in the place of the first
    for column in ("pairs", "same", "fold", "group"):
        assert (getattr(read, column) == getattr(pairs, column)).all()
    assert read.name == "orl_10"
    rows = np.arange(len(held_out))
    assert encoded_images(read.images, rows) == encoded_images(pairs.images, rows)
    viewed = load_dataset(str(tmp_path / "pairs"), "pairs", split="test")
    assert viewed[0] == {
        "image_a": pairs.pairs[0, 0],
        "image_b": pairs.pairs[0, 1],
        "same": pairs.same[0],
        "fold": 0,
        "group": "first",
    }


def test_parquet_without_folds_and_with_images_in_files(held_out, tmp_path):
    tmp_path.joinpath("a.png").write_bytes(encoded_images(held_out, [0])[0])
    images = Dataset.from_dict(
        {"image": [str(tmp_path / "a.png")] * 2},
        features=held_out.features.__class__({"image": held_out.features["image"]}),
    )
    VerificationPairs(images, [[0, 1]], [True], name="t").to_parquet(tmp_path / "pairs")
    tmp_path.joinpath("a.png").unlink()
    read = VerificationPairs.from_parquet(tmp_path / "pairs")
    assert read.fold is None and read.group is None
    assert read.images[1]["image"].size == (92, 112)
