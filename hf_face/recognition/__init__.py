"""A backbone with its margin head: the model that is trained."""

from .configuration_face_recognition import FaceRecognitionConfig
from .modeling_face_recognition import AutoModelForFaceRecognition, FaceRecognitionModel, FaceRecognitionOutput

__all__ = ["AutoModelForFaceRecognition", "FaceRecognitionConfig", "FaceRecognitionModel", "FaceRecognitionOutput"]
