"""Class centers that start where a trained backbone already sees the people."""

import numpy as np
import torch
from datasets import Dataset
from torch.nn.functional import normalize

from ..data.columns import identity_labels
from ..embedding import Embedder
from ..models import FaceImageProcessor
from ..recognition import FaceRecognitionModel


@torch.no_grad()
def start_from_means(model: FaceRecognitionModel, faces: Dataset, image_processor: FaceImageProcessor) -> None:
    """
    Point each class center to the mean embedding of the person's images, for fine-tuning a trained backbone, which the
    first steps from random centers would change for no reason. Qi et al. 2018, "Low-Shot Learning with Imprinted
    Weights", equation 3.

    Args:
        model: The training model, whose class centers are changed in place.
        faces: Its training data.
        image_processor: That of the backbone.

    Raises:
        ValueError: if the head has several centers for each person, which would stay equal, or the data is a stream.
    """
    head = model.head
    if head.sub_centers > 1:
        raise ValueError(f"Means are one center for each person, but the head has sub_centers={head.sub_centers}.")
    if not isinstance(faces, Dataset):
        raise ValueError("Means of embeddings need all images before training, which a stream does not have.")
    embeddings = Embedder(model.backbone.eval(), image_processor, flip=False)(faces, None).embeddings  # (N, D)
    sums = np.zeros((head.num_identities, head.embedding_size), dtype=np.float32)
    np.add.at(sums, identity_labels(faces), embeddings)
    means = normalize(torch.from_numpy(sums)[head.own_rows]).to(head.weight)
    head.weight.copy_(means * head.weight.norm(dim=1, keepdim=True))
