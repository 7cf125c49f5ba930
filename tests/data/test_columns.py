"""What is read of the columns of identity data without decoding images."""

import pytest
from datasets import Dataset, Features, Image

from hf_face.data.columns import encoded_sizes, read_images_into_table, rows_that_fit


@pytest.mark.parametrize(
    ("sizes", "number"),
    [([64 << 20, 1], 1), ([(64 << 20) - 1, 1, 1], 2), ([65 << 20, 1], 1), ([1, 2, 3], 3), ([0] * 5, 5)],
)
def test_rows_of_64_mb_fit_and_always_one(sizes, number):
    assert rows_that_fit(sizes) == number


def test_an_image_in_a_file_of_its_own_takes_no_bytes_until_it_is_read(tmp_path):
    (tmp_path / "a.png").write_bytes(b"four")
    rows = [{"bytes": b"three", "path": None}, {"bytes": None, "path": str(tmp_path / "a.png")}]
    dataset = Dataset.from_dict({"image": rows}, features=Features({"image": Image()}))
    assert encoded_sizes(dataset).tolist() == [5, 0]
    assert encoded_sizes(read_images_into_table(dataset)).tolist() == [5, 4]
    assert encoded_sizes(dataset.select([1, 0])).tolist() == [0, 5]
