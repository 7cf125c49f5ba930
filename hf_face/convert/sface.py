"""SFace of the OpenCV zoo."""

from ..models import MobileNetFaceConfig
from ..registry import sources
from .checkpoint import Checkpoint
from .onnx import OnnxSource, embedding_size_of, epsilon_of, is_mobilenet
from .onnx_graph import Node

SFACE = """
@article{sface,
  title = {SFace: Sigmoid-Constrained Hypersphere Loss for Robust Face Recognition},
  author = {Zhong, Yaoyao and Deng, Weihong and Hu, Jiani and Zhao, Dongyue and Li, Xian and Wen, Dongchao},
  journal = {IEEE Transactions on Image Processing},
  year = {2021}
}
"""


@sources.register("sface", citation=SFACE)
class SFace(OnnxSource):
    """OpenCV zoo: SFace, a MobileNet v1, as float ONNX file or quantized to int8 in blocks, which is dequantized."""

    url = "https://github.com/opencv/opencv_zoo/tree/main/models/face_recognition_sface"
    files = "`.onnx`"
    license = "Apache-2.0 (README.md)"

    model_type = "mobilenet_face"

    def recognizes(self, checkpoint: Checkpoint) -> bool:
        return checkpoint.graph is not None and is_mobilenet(checkpoint.graph)

    def architecture(self, path, graph, settings):
        layers = [step for step in path if isinstance(step, Node)]
        convolutions = [layer for layer in layers if layer.op == "Conv"]
        norms = [layer for layer in layers if layer.op == "BatchNormalization"]
        stem, depthwise, pointwise = convolutions[0], convolutions[1::2], convolutions[2::2]
        read = {
            "num_channels": stem.weights[0].shape[1],
            "stem_size": stem.weights[0].shape[0],
            "hidden_sizes": [len(layer.weights[0]) for layer in pointwise],
            "strides": [layer.attributes["strides"][0] for layer in depthwise],
            "embedding_size": embedding_size_of(path, graph),
            "image_size": graph.input_shape[-1],
            "batch_norm_eps": epsilon_of(norms[0]),
            "neck_norm_eps": epsilon_of(norms[-1]),
        }
        return MobileNetFaceConfig(**{**read, **settings})
