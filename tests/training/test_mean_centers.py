"""Class centers that start from the mean embedding of each person's images."""

import pytest
import torch
from tiny_models import CASES
from torch.nn.functional import cosine_similarity, normalize

from hf_face import FaceImageProcessor, FaceRecognitionConfig, FaceRecognitionModel
from hf_face.data import load_orl, select_identities
from hf_face.training import start_from_means


@pytest.fixture(scope="module")
def faces():
    return select_identities(load_orl(), num_identities=3, images_per_identity=2)


@pytest.fixture
def image_processor():
    return FaceImageProcessor(size={"height": 32, "width": 32})


def new_model(**head) -> FaceRecognitionModel:
    torch.manual_seed(0)
    config = CASES["mobilefacenet"][0]
    return FaceRecognitionModel(FaceRecognitionConfig(backbone_config=config, num_identities=3, **head))


def test_each_center_points_to_the_mean_of_its_person(faces, image_processor):
    model = new_model().eval()
    lengths = model.head.weight.norm(dim=1)
    start_from_means(model, faces, image_processor)
    with torch.no_grad():
        embeddings = model.embed(**image_processor(list(faces["image"]), return_tensors="pt")).pooler_output
    means = torch.stack([normalize(embeddings[[2 * person, 2 * person + 1]].mean(0), dim=0) for person in range(3)])
    assert list(faces["label"]) == [0, 0, 1, 1, 2, 2]
    assert (cosine_similarity(model.head.weight, means) > 0.999).all()
    torch.testing.assert_close(model.head.weight.norm(dim=1), lengths)


def test_what_has_no_means(faces, image_processor):
    with pytest.raises(ValueError, match="one center for each person, but the head has sub_centers=2"):
        start_from_means(new_model(sub_centers=2), faces, image_processor)
    with pytest.raises(ValueError, match="which a stream does not have"):
        start_from_means(new_model(), faces.to_iterable_dataset(), image_processor)
