"""SFace of the OpenCV zoo."""

from ..models import MobileNetFaceConfig
from ..registry import sources
from .checkpoint import Checkpoint
from .onnx import OnnxSource, epsilon_of, is_mobilenet

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

    def architecture(self, layers, settings):
        _, *convolutions = [layer for layer in layers.plain if layer.op == "Conv"]
        norms = [layer for layer in layers.plain if layer.op == "BatchNormalization"]
        read = {
            "num_channels": layers.stem.shape[1],
            "stem_size": layers.stem.shape[0],
            "hidden_sizes": [len(pointwise.weights[0]) for pointwise in convolutions[1::2]],
            "strides": [depthwise.attributes["strides"][0] for depthwise in convolutions[::2]],
            "embedding_size": layers.embedding_size,
            "image_size": layers.image_size,
            "batch_norm_eps": epsilon_of(norms[0]),
            "neck_norm_eps": epsilon_of(norms[-1]),
        }
        return MobileNetFaceConfig(**{**read, **settings})
