"""Face alignment. It stands with the models, with which it travels to the Hub."""

from ..models.alignment import ARCFACE_LANDMARKS, ARCFACE_SIZE, align_faces, similarity_transforms

__all__ = ["ARCFACE_LANDMARKS", "ARCFACE_SIZE", "align_faces", "similarity_transforms"]
