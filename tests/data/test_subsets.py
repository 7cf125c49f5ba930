"""Subsets, splits and merges of identity data."""

import numpy as np
import pytest

from hf_face.data import compact_labels, merge_identities, select_identities, split_identities
from hf_face.data.columns import encoded_images, identity_labels
from hf_face.data.subsets import replace_labels


def names(dataset) -> list[str]:
    """The name of the person in each row."""
    return [dataset.features["label"].names[label] for label in dataset["label"]]


def images(dataset) -> list[bytes]:
    return encoded_images(dataset, np.arange(len(dataset)))


def person_of(orl) -> dict[bytes, str]:
    return dict(zip(images(orl), names(orl), strict=True))


def test_first_identities_and_images(orl):
    subset = select_identities(orl, 3, 2)
    assert images(subset) == [images(orl)[row] for row in (0, 1, 10, 11, 20, 21)]
    assert subset["label"][:] == [0, 0, 1, 1, 2, 2]
    assert subset.features["label"].names == ["s1", "s2", "s3"]


def test_random_identities_and_images(orl):
    subset = select_identities(orl, 5, 4, seed=1)
    assert (np.bincount(subset["label"]) == 4).all() and len(subset) == 20
    assert subset.features["label"].names != ["s1", "s2", "s3", "s4", "s5"]
    assert images(subset) == images(select_identities(orl, 5, 4, seed=1))
    assert images(subset) != images(select_identities(orl, 5, 4, seed=2))
    person = person_of(orl)
    assert [person[image] for image in images(subset)] == names(subset)


def test_images_are_chosen_at_random_within_an_identity(orl):
    first = set(images(orl)[:10])
    chosen = [set(images(select_identities(orl, images_per_identity=4, seed=seed))) & first for seed in range(5)]
    assert all(len(images) == 4 for images in chosen)
    assert len({frozenset(images) for images in chosen}) > 1


def test_minimum_number_of_images(orl):
    uneven = orl.select([0, 10, 11, 20, 21, 22, 30])
    assert names(select_identities(uneven, 2, min_images=2)) == ["s2", "s2", "s3", "s3", "s3"]
    assert names(select_identities(uneven)) == names(uneven), "one image is enough by default"
    assert names(select_identities(uneven, 1, min_images=0)) == ["s1"]
    assert names(select_identities(orl.select([10, 11]), 1, min_images=0)) == ["s2", "s2"], "not s1, without images"
    assert names(select_identities(orl.select([10, 11, 20]), images_per_identity=1)) == ["s2", "s3"]
    with pytest.raises(ValueError, match=r"3 identities were requested, but only 2 of the 4 .* at least 2 images"):
        select_identities(uneven, 3, min_images=2)


def test_more_images_than_there_are(orl):
    assert len(select_identities(orl, 2, 50)) == 20


def test_split_shares_no_identity_and_loses_none(orl):
    train, held_out = split_identities(orl, num_held_out=10, seed=3)
    people = [set(names(part)) for part in (train, held_out)]
    assert not people[0] & people[1] and len(people[0] | people[1]) == 40 and len(people[1]) == 10
    assert len(train) == 300 and len(held_out) == 100
    person = person_of(orl)
    for part in (train, held_out):
        assert sorted(set(part["label"])) == list(range(part.features["label"].num_classes))
        assert [person[image] for image in images(part)] == names(part)


def test_split_depends_on_the_seed_only(orl):
    assert names(split_identities(orl, 10, seed=1)[1]) == names(split_identities(orl, 10, seed=1)[1])
    assert names(split_identities(orl, 10)[1]) == names(split_identities(orl, 10, seed=0)[1])
    assert set(names(split_identities(orl, 10, seed=1)[1])) != set(names(split_identities(orl, 10, seed=2)[1]))


def test_one_identity_may_be_held_out_or_left(orl):
    three = select_identities(orl, 3)
    for num_held_out in (1, 2):
        held_out = split_identities(three, num_held_out)[1]
        assert held_out.features["label"].num_classes == num_held_out


@pytest.mark.parametrize("num_held_out", [0, 40, 41])
def test_split_with_an_empty_side(orl, num_held_out):
    with pytest.raises(ValueError, match="num_held_out must be 1 to 39 for 40 identities, found"):
        split_identities(orl, num_held_out)


def test_split_of_one_identity(orl):
    with pytest.raises(ValueError, match="for 1 identities"):
        split_identities(select_identities(orl, 1), 1)


def test_compact_keeps_names_order_and_selection(orl):
    part = orl.select([399, 50, 51, 20])
    compacted = compact_labels(part)
    assert compacted["label"][:] == [2, 1, 1, 0]
    assert names(compacted) == ["s40", "s6", "s6", "s3"]
    assert images(compacted) == images(part)


def test_merge_offsets_labels(orl):
    first, second = split_identities(orl, 10)
    merged = merge_identities([first, second])
    assert merged.features["label"].num_classes == 40
    assert identity_labels(merged).tolist() == [*first["label"], *(30 + label for label in second["label"])]
    assert images(merged) == images(first) + images(second)
    assert merged.features["label"].names[0] == f"0/{first.features['label'].names[0]}"
    assert merged.features["label"].names[30] == f"1/{second.features['label'].names[0]}"


def test_merge_of_a_shuffled_selection_with_other_columns(orl):
    first = orl.select(range(30)).add_column("file_name", [f"{i}.png" for i in range(30)]).shuffle(seed=0)
    merged = merge_identities([compact_labels(first), select_identities(orl, 2)])
    assert images(merged) == images(first) + images(orl)[:20]
    assert merged.column_names == ["image", "label"]
    assert merged["label"][:30] == first["label"][:]


def test_the_images_are_not_copied(orl, tmp_path):
    """A selection of a dataset on disk stays a view of it, labels and all."""
    orl.save_to_disk(tmp_path / "orl")
    on_disk = orl.load_from_disk(tmp_path / "orl")
    train, held_out = split_identities(select_identities(on_disk.shuffle(seed=0), 20), 5)
    for part in (train, held_out):
        assert part.data.num_rows == 400  # the whole table, seen through indices
        assert [file["filename"] for file in part.cache_files] == [file["filename"] for file in on_disk.cache_files]


def test_replace_labels(orl):
    part = orl.select([5, 3, 399])
    relabeled = replace_labels(part, np.array([1, 0, 1]), ["a", "b"])
    assert names(relabeled) == ["b", "a", "b"]
    assert images(relabeled) == images(part)
    assert relabeled.features["label"].names == ["a", "b"]
