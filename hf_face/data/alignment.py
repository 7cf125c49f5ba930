"""Face alignment. The code is with the models, since it travels to the Hub with them."""

from ..models.alignment import ARCFACE_LANDMARKS, ARCFACE_SIZE, align_faces, similarity_transforms

__all__ = ["ARCFACE_LANDMARKS", "ARCFACE_SIZE", "align_faces", "similarity_transforms"]
