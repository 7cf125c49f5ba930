"""Folders of photographs become folders of aligned crops."""

import numpy as np
import pytest
from PIL import Image

from hf_face.cli import run_subcommand
from hf_face.data import load_orl
from hf_face.models.alignment import ARCFACE_LANDMARKS
from hf_face.pipelines import crop_folder


class Detector:
    """Finds as many faces as the photograph's first pixel says, the second one largest."""

    def detect(self, images):
        return [self.faces(int(image[0, 0, 0])) for image in images]

    def faces(self, count: int):
        scales = np.array([1, 2, 1.5][:count])
        corner = np.zeros((count, 2))
        opposite = np.stack([112 * scales, 112 * scales], axis=1)
        # Pixel centers are at whole numbers: twice as large, a crop's pixel 0 covers the photograph's 0 and 1.
        landmarks = (ARCFACE_LANDMARKS + 0.5) * scales[:, None, None] - 0.5
        return np.concatenate([corner, opposite], axis=1), landmarks, np.ones(count)


@pytest.fixture
def photographs(tmp_path):
    folder = tmp_path / "photographs"
    random = np.random.default_rng(0)
    for name, faces in (("ada/1.png", 1), ("ada/2.png", 0), ("grace/1.bmp", 1), ("grace/1.png", 3)):
        pixels = random.integers(0, 255, (240, 240, 3), dtype=np.uint8)
        pixels[0, 0, 0] = faces
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(folder / name)
    return folder


def pixels_of(path) -> np.ndarray:
    return np.array(Image.open(path)).astype(float)


def test_each_photograph_has_its_crop_in_the_same_place(photographs, tmp_path):
    made = crop_folder(photographs, tmp_path / "out" / "crops", detector=Detector())
    assert made.crops == ["ada/1.png", "grace/1.png", "grace/1.png.png"]
    assert (made.without_face, made.with_several) == (["ada/2.png"], ["grace/1.png"])
    crop = pixels_of(tmp_path / "out" / "crops" / "ada" / "1.png")
    assert np.abs(crop - pixels_of(photographs / "ada" / "1.png")[:112, :112]).max() <= 1


def test_the_largest_face_is_cropped_and_each_pixel_is_the_mean_of_what_it_covers(photographs, tmp_path):
    crop_folder(photographs, tmp_path / "crops", detector=Detector())
    covered = pixels_of(photographs / "grace" / "1.png")[:224, :224].reshape(112, 2, 112, 2, 3).mean((1, 3))
    assert np.abs(pixels_of(tmp_path / "crops" / "grace" / "1.png.png") - covered).max() <= 1


def test_nothing_is_left_half_written(photographs, tmp_path):
    (photographs / "grace" / "2.jpg").write_bytes(b"not an image")
    with pytest.raises(ValueError, match=r"grace/2\.jpg is not an image"):
        crop_folder(photographs, tmp_path / "crops", detector=Detector())
    assert [path.name for path in tmp_path.iterdir()] == ["photographs"]


def test_what_is_refused(photographs, tmp_path):
    with pytest.raises(ValueError, match="photographs is not empty: name a new folder"):
        crop_folder(photographs, photographs, detector=Detector())
    with pytest.raises(ValueError, match=r"crops lies in .*photographs, where the next run would take it for images"):
        crop_folder(photographs, photographs / "crops", detector=Detector())
    for name in ("ada/1.png", "grace/1.png", "grace/1.bmp"):
        (photographs / name).unlink()
    with pytest.raises(ValueError, match="has no photographs in which a face was found"):
        crop_folder(photographs, tmp_path / "crops", detector=Detector())
    assert not (tmp_path / "crops").exists()


def test_the_command_names_photographs_without_a_face(tmp_path, capsys):
    pytest.importorskip("cv2", reason="finding faces requires OpenCV")
    people = tmp_path / "photographs" / "ada"
    people.mkdir(parents=True)
    load_orl()[0]["image"].save(people / "1.png")
    Image.new("RGB", (64, 64)).save(people / "2.png")
    run_subcommand(["crop", str(tmp_path / "photographs"), "--output", str(tmp_path / "crops")])
    printed = capsys.readouterr()
    assert printed.out == f"{tmp_path / 'crops'} has 1 crops; no face was found in 1 photographs.\n"
    assert "ada/2.png: no face was found\n" in printed.err
    assert pixels_of(tmp_path / "crops" / "ada" / "1.png").shape == (112, 112, 3)
