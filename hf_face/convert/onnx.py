"""ONNX files: InsightFace's packs and exports of arcface_torch."""

import math
from dataclasses import dataclass
from itertools import chain, groupby, pairwise
from typing import Any, cast

from torch import Tensor

from ..heads.margins.angular import ARCFACE
from ..models import (
    FaceConfig,
    FaceImageProcessor,
    FacePreTrainedModel,
    FusableMixin,
    IResNetConfig,
    MobileFaceNetConfig,
)
from ..registry import sources
from .checkpoint import Checkpoint, StateDict
from .onnx_graph import SHAPE_OPS, SKIPPED_OPS, Graph, Node, Unit
from .onnx_weights import read_weights
from .source import CheckpointSource, skeleton_of

LAYERS = {"Add", "BatchNormalization", "Conv", "Div", "Gemm", "MatMul", "MaxPool", "Mul", "PRelu", "Sub"}
KNOWN_OPS = LAYERS | SKIPPED_OPS | SHAPE_OPS


@dataclass
class Layers:
    """
    The layers of a network.

    Attributes:
        steps: Layers and residual units, from the stem on.
        origin, image_size: The file, for error messages, and the size of its input; 0 if it takes any.
    """

    steps: list[Node | Unit]
    origin: str
    image_size: int

    @property
    def units(self) -> list[Unit]:
        return [step for step in self.steps if isinstance(step, Unit)]

    @property
    def plain(self) -> list[Node]:
        """The layers outside units."""
        return [step for step in self.steps if isinstance(step, Node)]

    @property
    def in_order(self) -> list[Node]:
        """All layers; of a unit, those of the shortcut last."""
        nested = [[step] if isinstance(step, Node) else step.layers + step.shortcut for step in self.steps]
        return list(chain.from_iterable(nested))

    @property
    def stem(self) -> Tensor:
        """The weight of the first convolution."""
        return self.plain[0].weights[0]

    @property
    def embedding_size(self) -> int:
        return self.linear_shape[0]

    @property
    def linear_shape(self) -> tuple[int, int]:
        """Outputs and inputs of the last linear layer."""
        linear = next((layer for layer in reversed(self.plain) if layer.op in ("Gemm", "MatMul")), None)
        if linear is None:
            raise ValueError(f"{self.origin} does not end with a linear layer: {self.plain[-1]} does not fit.")
        inputs, outputs = linear.weights[0].shape
        return (inputs, outputs) if linear.attributes.get("transB") else (outputs, inputs)


class OnnxSource(CheckpointSource):
    """
    A network in an ONNX file, whose names say nothing: its layers are found by following the image through the graph.

    Exporters fold batch norms into the convolutions before them. The model is then built with `fused=True`; with the
    option `unfuse=True` it gets batch norms that change nothing (yet), to be fine-tuned as usual. The graph's own
    normalization, if it has one, becomes that of the image processor.
    """

    def convert(
        self, checkpoint: Checkpoint, unfuse: bool = False, **overrides: Any
    ) -> tuple[FacePreTrainedModel, FaceImageProcessor]:
        """See `convert_checkpoint`; `unfuse` is described at the class."""
        graph = self.graph_of(checkpoint)
        stated = normalization_of(graph)
        fused = {"fused": False} if unfuse else {}
        return super().convert(checkpoint, **{**stated, **fused, **overrides})

    def read(self, checkpoint: Checkpoint, **overrides: Any) -> tuple[FaceConfig, StateDict, Tensor | None]:
        graph = self.graph_of(checkpoint)
        layers = layers_of(graph)
        config = self.architecture(layers, {**overrides, "fused": False})
        skeleton = cast(FusableMixin, skeleton_of(config))
        weights, config.fused = read_weights(skeleton, layers.in_order, graph, overrides.get("fused"))
        return config, weights, None

    def architecture(self, layers: Layers, settings: dict[str, Any]) -> Any:
        """Read the architecture from the layers; `settings` take precedence."""
        raise NotImplementedError

    def graph_of(self, checkpoint: Checkpoint) -> Graph:
        if checkpoint.graph is None:
            raise ValueError(f"{checkpoint.origin} is not an ONNX file, which source={self.name!r} reads.")
        return checkpoint.graph

    def export(self, model: FacePreTrainedModel) -> StateDict:
        raise ValueError("export_checkpoint writes no ONNX files; torch.onnx.export does.")


@sources.register("onnx", citation=ARCFACE)
class InsightFaceOnnx(OnnxSource):
    """deepinsight/insightface: packs such as `buffalo_l` and `antelopev2`, and exports of iresnet and mbf."""

    url = "https://github.com/deepinsight/insightface/tree/master/python-package"
    files = "`.onnx`"
    license = "non-commercial research only (python-package/README.md)"

    families = ("iresnet", "mobilefacenet")

    def recognizes(self, checkpoint: Checkpoint) -> bool:
        return checkpoint.graph is not None and not is_mobilenet(checkpoint.graph)

    def architecture(self, layers, settings):
        if not layers.units:
            raise ValueError(f"{layers.origin} has no residual units: it is neither an iresnet nor a MobileFaceNet.")
        read = iresnet if layers.units[0].layers[0].op == "BatchNormalization" else mobilefacenet
        return read(layers, settings)


def is_mobilenet(graph: Graph) -> bool:
    """Whether the network is one chain with depthwise convolutions: MobileNet v1, as SFace."""
    ops = [node.op for node in graph.nodes]
    groups = [node.attributes.get("group", 1) for node in graph.nodes if node.op == "Conv"]
    return "Add" not in ops and "PRelu" in ops and any(group > 1 for group in groups)


def normalization_of(graph: Graph) -> dict[str, list[float]]:
    """The image processor's mean and standard deviation for a graph that starts with `(x - a) * b` on 0..255."""
    first, *rest = graph.consumers(graph.input)
    if rest or first.op != "Sub":
        return {}
    then = graph.consumers(first.output)[0]
    if then.op not in ("Mul", "Div"):
        raise ValueError(f"{graph.origin}: {then} does not fit: a normalization is (x - a) * b or (x - a) / b.")
    factor = 1 / then.weights[0].flatten() if then.op == "Mul" else then.weights[0].flatten()
    shift, scale = first.weights[0].flatten().double() / 255, factor.double() / 255
    return {"image_mean": shift.expand(3).tolist(), "image_std": scale.expand(3).tolist()}


def layers_of(graph: Graph) -> Layers:
    """
    The layers of the graph, without the normalization and layers that only reshape.

    Raises:
        ValueError: if the graph has another kind of layer or branches; names the first that does not fit.
    """
    for node in graph.nodes:
        if node.op not in KNOWN_OPS:
            raise ValueError(
                f"{graph.origin}: {node} does not fit: no iresnet, MobileFaceNet or MobileNet v1 has {node.op}."
            )
    steps = [step for step in graph.path() if isinstance(step, Unit) or step.op not in SKIPPED_OPS]
    if isinstance(steps[0], Node) and steps[0].op == "Sub":
        del steps[:2]
    if not isinstance(steps[0], Node) or steps[0].op != "Conv":
        raise ValueError(f"{graph.origin} does not begin with a convolution.")
    return Layers(steps, graph.origin, graph.input_shape[-1])


def iresnet(layers: Layers, settings: dict[str, Any]) -> IResNetConfig:
    convolutions = [[node for node in unit.layers if node.op == "Conv"] for unit in layers.units]
    strides = [max(node.attributes["strides"][0] for node in unit) for unit in convolutions]
    starts = [position for position, stride in enumerate(strides) if stride == 2]
    last = layers.plain[-1]
    learns_bias_only = last.op != "BatchNormalization" or bool((last.weights[0] == 1).all())
    subsampled = any(node.op == "MaxPool" for unit in layers.units for node in unit.shortcut)
    side = math.isqrt(layers.linear_shape[1] // len(convolutions[-1][-1].weights[0]))  # of the last feature map
    read = {
        "depths": [end - start for start, end in pairwise([*starts, len(convolutions)])],
        "hidden_sizes": [len(convolutions[start][-1].weights[0]) for start in starts],
        "layer_type": "bottleneck" if len(convolutions[0]) == 3 else "basic",
        "shortcut": "subsample" if subsampled else "projection",
        "stem_size": layers.stem.shape[0],
        "num_channels": layers.stem.shape[1],
        "stem_kernel_size": layers.stem.shape[2],
        "embedding_size": layers.embedding_size,
        "embedding_norm": "bias" if learns_bias_only else "affine",
        "image_size": layers.image_size or side * 2 ** len(starts),
        "batch_norm_eps": epsilon_of(layers.units[0].layers[0]),
    }
    return IResNetConfig(**{**read, **settings})


def mobilefacenet(layers: Layers, settings: dict[str, Any]) -> MobileFaceNetConfig:
    runs = [len(list(run)) for of_units, run in groupby(layers.steps, lambda step: isinstance(step, Unit)) if of_units]
    norms = [layer for layer in layers.plain if layer.op == "BatchNormalization"]
    pool = [layer for layer in layers.plain if layer.op == "Conv"][-1]  # as large as the last feature map
    read = {
        "depths": runs if len(runs) == 4 else [1, *runs],
        "width": layers.stem.shape[0] // 64,
        "num_channels": layers.stem.shape[1],
        "embedding_size": layers.embedding_size,
        "image_size": layers.image_size or 16 * pool.weights[0].shape[-1],
        "batch_norm_eps": epsilon_of(norms[-1]) if norms else 1e-5,
    }
    return MobileFaceNetConfig(**{**read, **settings})


def epsilon_of(norm: Node) -> float:
    return float(f"{norm.attributes.get('epsilon', 1e-5):.6g}")  # stored in single precision
