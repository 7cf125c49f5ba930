import csv
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.io import savemat

from hf_face import FaceImageProcessor, TimmFaceConfig, TimmFaceModel
from hf_face.data.alignment import ARCFACE_LANDMARKS

PEOPLE, PHOTOGRAPHS = 8, 6  # of the miniature IJB-C
SHIFT = (20, 30)  # of the face in its loose crop, which alignment has to undo
LOOSE_LANDMARKS = (ARCFACE_LANDMARKS + SHIFT).ravel()


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory) -> Path:
    """A model without training and its image processor, saved as a user has them."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("model")
    TimmFaceModel(TimmFaceConfig(architecture="resnet10t", image_size=32, embedding_size=16)).save_pretrained(folder)
    FaceImageProcessor(size={"height": 32, "width": 32}).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def faces(orl) -> np.ndarray:
    """Aligned faces (people, photographs, 112, 112, 3)."""
    rows = [np.flatnonzero(np.asarray(orl["label"]) == person)[:PHOTOGRAPHS] for person in range(PEOPLE)]
    images = [orl[int(row)]["image"].convert("RGB").resize((112, 112)) for row in np.concatenate(rows)]
    return np.stack(images).reshape(PEOPLE, PHOTOGRAPHS, 112, 112, 3)


def loose_crop(face: np.ndarray) -> Image.Image:
    """A photograph with this aligned face in it, at `LOOSE_LANDMARKS`."""
    pixels = np.zeros((190, 160, 3), np.uint8)
    pixels[SHIFT[1] : SHIFT[1] + 112, SHIFT[0] : SHIFT[0] + 112] = face
    return Image.fromarray(pixels)


@pytest.fixture(scope="session")
def ijb_folder(faces, tmp_path_factory) -> Path:
    """IJB-C in miniature: of each person a gallery template of three photographs, two of them one media, and a probe
    template of two and one of one. Half of the people are in each gallery."""
    folder = tmp_path_factory.mktemp("ijb") / "IJBC"
    (folder / "meta").mkdir(parents=True)
    (folder / "loose_crop").mkdir()
    members, landmarks, templates = [], [], {}
    for person in range(PEOPLE):
        for photograph, (template, media) in enumerate([(0, 5), (0, 5), (0, 6), (1, 1), (1, 2), (2, 1)]):
            name = f"{person}_{photograph}.png"
            loose_crop(faces[person, photograph]).save(folder / "loose_crop" / name)
            points = " ".join(f"{value:.4f}" for value in LOOSE_LANDMARKS)
            landmarks.append(f"{name} {points} {0.5 + 0.05 * photograph + 0.01 * person:.3f}")
            members.append(f"{name} {100 * person + 7 * template} {media}")
            templates[100 * person + 7 * template] = person
    pairs = [f"{a} {b} {int(templates[a] == templates[b])}" for a, b in combinations(templates, 2)]
    for name, lines in (("face_tid_mid", members), ("name_5pts_score", landmarks), ("template_pair_label", pairs)):
        (folder / "meta" / f"ijbc_{name}.txt").write_text("\n".join(lines) + "\n")
    for name, chosen in {
        "gallery_G1": [t for t, p in templates.items() if t % 100 == 0 and p % 2 == 0],
        "gallery_G2": [t for t, p in templates.items() if t % 100 == 0 and p % 2 == 1],
        "probe_mixed": [t for t in templates if t % 100 for _ in range(2)],  # one row an image: templates recur
    }.items():
        with open(folder / "meta" / f"ijbc_1N_{name}.csv", "w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["TEMPLATE_ID", "SUBJECT_ID", "FILENAME"])
            writer.writerows([template, templates[template] + 1000, "x.png"] for template in chosen)
    return folder


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


@pytest.fixture
def rfw(faces, tmp_path) -> Path:
    """RFW's official folder in miniature: two groups of four people, loose crops of five photographs each."""
    folder = tmp_path / "RFW" / "test"
    for start, group in enumerate(("African", "Asian")):
        people = range(4 * start, 4 * start + 4)
        landmarks = []
        for person in people:
            (folder / "data" / group / f"m.{person}").mkdir(parents=True)
            for photograph in range(5):
                name = f"{group}/m.{person}/m.{person}_{photograph + 1:04d}.jpg"
                loose_crop(faces[person, photograph]).save(folder / "data" / name, quality=95)
                points = "\t".join(f"{value:.4f}" for value in LOOSE_LANDMARKS)
                landmarks.append(f"/test/data/{name}\t{person}\t{points}")
        pairs = []
        for a, b in combinations(range(1, 5), 2):  # of each fold first the genuine pairs, as in the official lists
            pairs += [f"m.{person}\t{a}\t{b}" for person in people]
            pairs += [f"m.{one}\t{a}\tm.{other}\t{b}" for one, other in combinations(people, 2)]
        (folder / "txts" / group).mkdir(parents=True)
        (folder / "txts" / group / f"{group}_pairs.txt").write_text("\n".join(pairs) + "\n")
        (folder / "txts" / group / f"{group}_lmk.txt").write_text("\n".join(landmarks) + "\n")
    return folder
