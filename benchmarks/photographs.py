"""
Photographs to embeddings on the CPU, compared to InsightFace's FaceAnalysis and to OpenCV's own classes.

    python benchmarks/photographs.py ../shared/data/lfw_raw --threads 2
    python benchmarks/alignment.py --device cuda            # alignment alone, on made photographs; no other files

All read the same files, find faces with the same YuNet and embed every face with the same SFace. hf_face reads and
embeds batches of 32 photographs with torch; FaceAnalysis, whose own packs of models are not downloaded, is given YuNet
as its detector and SFace as an ONNX file for onnxruntime; OpenCV has classes for both. facenet-pytorch has models of
its own, MTCNN and Inception-ResNet-v1, and takes batches like hf_face; the second one's weights are downloaded, so they
are random here, which takes as long. A peer that is not installed is left out. Each repeat runs every method once, and
the medians are compared.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory

import cv2
import numpy as np
import onnx
import torch
from PIL import Image
from transformers import pipeline
from transformers.utils import logging

import hf_face  # noqa: F401  registers the pipelines
from hf_face.models.opencv_zoo import SFACE, find_zoo_file
from hf_face.pipelines import YuNetDetector, default_model

Method = Callable[[list[str]], int]  # from files to the number of faces embedded


def with_hf_face(batch_size: int) -> Method:
    embed = pipeline("face-embedding", model=str(default_model()), batch_size=batch_size, device="cpu")
    return lambda files: sum(map(len, embed(files)))


def runnable_sface(folder: Path) -> str:
    """The file without the inputs for weights that it does not have, which runners ask for."""
    model = onnx.load(find_zoo_file(SFACE))
    data = [each for each in model.graph.input if each.name == "data"]
    del model.graph.input[:]
    model.graph.input.extend(data)
    onnx.save(model, folder / "sface.onnx")
    return str(folder / "sface.onnx")


def with_insightface(sface: str, threads: int) -> Method:
    import onnxruntime
    from insightface.app import FaceAnalysis
    from insightface.model_zoo.arcface_onnx import ArcFaceONNX

    class YuNet:
        """Our detector, as FaceAnalysis calls one."""

        def __init__(self):
            self.detector = YuNetDetector()

        def detect(self, image, max_num=0, metric="default"):
            ((boxes, landmarks, scores),) = self.detector.detect([image[..., ::-1]])
            return np.column_stack([boxes, scores]), landmarks

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(sface, options, providers=["CPUExecutionProvider"])
    recognizer = ArcFaceONNX(sface, session)
    recognizer.input_mean, recognizer.input_std = 0.0, 1.0  # the graph normalizes by itself
    analysis = FaceAnalysis.__new__(FaceAnalysis)  # its constructor loads a pack
    analysis.det_model, analysis.addons = YuNet(), {}
    analysis.models = {"detection": analysis.det_model, "recognition": recognizer}
    return lambda files: sum(len(analysis.get(cv2.imread(file))) for file in files)


def with_opencv(sface: str) -> Method:
    detector, recognizer = YuNetDetector(), cv2.FaceRecognizerSF.create(sface, "")

    def embed(files: list[str]) -> int:
        count = 0
        for file in files:
            image = cv2.imread(file)
            ((boxes, landmarks, scores),) = detector.detect([image[..., ::-1]])
            for row in np.column_stack([boxes, landmarks.reshape(-1, 10), scores]):
                recognizer.feature(recognizer.alignCrop(image, row))
                count += 1
        return count

    return embed


def with_facenet_pytorch(batch_size: int) -> Method:
    from facenet_pytorch import MTCNN, InceptionResnetV1

    detector, recognizer = MTCNN(keep_all=True), InceptionResnetV1(classify=False).eval()

    @torch.inference_mode()
    def embed(files: list[str]) -> int:
        count = 0
        for start in range(0, len(files), batch_size):
            images = [Image.open(file).convert("RGB") for file in files[start : start + batch_size]]
            found = [crops for crops in detector(images) if crops is not None]
            count += len(recognizer(torch.cat(found))) if found else 0
        return count

    return embed


def compare(methods: dict[str, Method], files: list[str], repeats: int) -> None:
    seconds: dict[str, list[float]] = {name: [] for name in methods}
    faces = {name: method(files[:32]) for name, method in methods.items()}  # warm
    for _ in range(repeats):
        for name, method in methods.items():
            start = time.perf_counter()
            faces[name] = method(files)
            seconds[name].append(time.perf_counter() - start)
    for name, taken in seconds.items():
        print(f"{name:24} {len(files) / statistics.median(taken):8.1f} photographs/s  {faces[name]} faces", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photographs", type=Path, help="folder of JPEG files")
    parser.add_argument("--limit", type=int, help="number of photographs; all by default")
    parser.add_argument("--batch_size", type=int, default=32, help="photographs at once, for hf_face (default: 32)")
    parser.add_argument("--threads", type=int, default=2, help="threads of each method (default: 2)")
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()

    torch.set_num_threads(args.threads)
    cv2.setNumThreads(args.threads)
    logging.set_verbosity_error()
    files = sorted(map(str, args.photographs.glob("*.jpg")))[: args.limit]
    with TemporaryDirectory() as folder:
        sface = runnable_sface(Path(folder))
        methods = {"hf_face": with_hf_face(args.batch_size), "OpenCV": with_opencv(sface)}
        if find_spec("insightface"):
            methods["InsightFace FaceAnalysis"] = with_insightface(sface, args.threads)
        if find_spec("facenet_pytorch"):
            methods["facenet-pytorch"] = with_facenet_pytorch(args.batch_size)
        compare(methods, files, args.repeats)


if __name__ == "__main__":
    main()
