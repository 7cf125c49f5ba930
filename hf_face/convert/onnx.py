"""ONNX files: InsightFace's packs and exports of arcface_torch."""

from itertools import chain, groupby
from typing import Any

from torch import Tensor

from ..heads.margins.angular import ARCFACE
from ..models import FaceConfig, FaceImageProcessor, FacePreTrainedModel, IResNetConfig, MobileFaceNetConfig
from ..registry import sources
from .checkpoint import Checkpoint, StateDict
from .onnx_graph import SHAPE_OPS, SKIPPED_OPS, Graph, Node
from .onnx_weights import read_weights
from .source import CheckpointSource, skeleton_of

LAYERS = {"Add", "BatchNormalization", "Conv", "Div", "Gemm", "MatMul", "MaxPool", "Mul", "PRelu", "Sub"}
KNOWN_OPS = LAYERS | SKIPPED_OPS | SHAPE_OPS
Unit = tuple[list[Node], list[Node]]  # the layers of a residual unit and those of its shortcut


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
        path = layers_of(graph)
        config = self.architecture(path, graph, {**overrides, "fused": False})
        nodes = [node for step in path for node in ([step] if isinstance(step, Node) else chain.from_iterable(step))]
        weights, config.fused = read_weights(skeleton_of(config), nodes, graph, overrides.get("fused"))
        return config, weights, None

    def architecture(self, path: list[Node | Unit], graph: Graph, settings: dict[str, Any]) -> FaceConfig:
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

    def architecture(self, path, graph, settings):
        units = [step for step in path if not isinstance(step, Node)]
        stem = path[0] if path else None
        if not isinstance(stem, Node) or stem.op != "Conv" or not units:
            raise ValueError(f"{graph.origin} has no residual units: it is neither an iresnet nor a MobileFaceNet.")
        first = units[0][0][0]
        read = iresnet if first.op == "BatchNormalization" else mobilefacenet
        return read(path, units, graph, settings)


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
    factor = 1 / then.weights[0].flatten() if then.op == "Mul" else then.weights[0].flatten()
    shift, scale = first.weights[0].flatten().double() / 255, factor.double() / 255
    return {"image_mean": shift.expand(3).tolist(), "image_std": scale.expand(3).tolist()}


def layers_of(graph: Graph) -> list[Node | Unit]:
    """
    The path through the graph, without the normalization and layers that only reshape.

    Raises:
        ValueError: if the graph has another kind of layer or branches; names the first that does not fit.
    """
    for node in graph.nodes:
        if node.op not in KNOWN_OPS:
            raise ValueError(
                f"{graph.origin}: {node} does not fit: no iresnet, MobileFaceNet or MobileNet v1 has {node.op}."
            )
    path = [step for step in graph.path() if not isinstance(step, Node) or step.op not in SKIPPED_OPS]
    if isinstance(path[0], Node) and path[0].op == "Sub":
        del path[:2]
    return path


def iresnet(path: list[Node | Unit], units: list[Unit], graph: Graph, settings: dict[str, Any]) -> IResNetConfig:
    convolutions = [[node for node in layers if node.op == "Conv"] for layers, _ in units]
    strides = [max(node.attributes["strides"][0] for node in unit) for unit in convolutions]
    starts = [position for position, stride in enumerate(strides) if stride == 2]
    depths = [end - start for start, end in zip(starts, [*starts[1:], len(units)], strict=True)]
    stem, norm = path[0].weights[0], units[0][0][0]
    last = path[-1]
    is_bias = last.op != "BatchNormalization" or (last.weights[0] == 1).all()
    subsampled = any(node.op == "MaxPool" for _, shortcut in units for node in shortcut)
    read = {
        "depths": depths,
        "hidden_sizes": [len(convolutions[start][-1].weights[0]) for start in starts],
        "layer_type": "bottleneck" if len(convolutions[0]) == 3 else "basic",
        "shortcut": "subsample" if subsampled else "projection",
        "stem_size": stem.shape[0],
        "num_channels": stem.shape[1],
        "stem_kernel_size": stem.shape[2],
        "embedding_size": embedding_size_of(path, graph),
        "embedding_norm": "bias" if is_bias else "affine",
        "image_size": graph.input_shape[-1],
        "batch_norm_eps": epsilon_of(norm),
    }
    return IResNetConfig(**{**read, **settings})


def mobilefacenet(
    path: list[Node | Unit], units: list[Unit], graph: Graph, settings: dict[str, Any]
) -> MobileFaceNetConfig:
    runs = [len(list(run)) for is_unit, run in groupby(path, lambda step: not isinstance(step, Node)) if is_unit]
    stem = path[0].weights[0]
    norms = [step for step in path if isinstance(step, Node) and step.op == "BatchNormalization"]
    read = {
        "depths": runs if len(runs) == 4 else [1, *runs],
        "width": stem.shape[0] // 64,
        "num_channels": stem.shape[1],
        "embedding_size": embedding_size_of(path, graph),
        "image_size": graph.input_shape[-1],
        "batch_norm_eps": epsilon_of(norms[-1]) if norms else 1e-5,
    }
    return MobileFaceNetConfig(**{**read, **settings})


def embedding_size_of(path: list[Node | Unit], graph: Graph) -> int:
    linear = next((step for step in reversed(path) if isinstance(step, Node) and step.op in ("Gemm", "MatMul")), None)
    if linear is None:
        raise ValueError(f"{graph.origin} does not end with a linear layer: {path[-1]} does not fit.")
    return linear.weights[0].shape[0 if linear.attributes.get("transB") else 1]


def epsilon_of(norm: Node) -> float:
    return float(f"{norm.attributes.get('epsilon', 1e-5):.6g}")  # stored in single precision
