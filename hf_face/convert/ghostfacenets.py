"""GhostFaceNets."""

import re
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

from torch import Tensor, nn

from ..models import FaceConfig, FacePreTrainedModel, GhostFaceNetConfig
from ..models.configuration_ghostfacenet import GHOSTFACENETS
from ..registry import sources
from .checkpoint import Checkpoint, StateDict
from .source import CheckpointSource, check_tensors, skeleton_of

Layers = dict[str, list[dict[str, Any]]]  # settings of Keras's layers by kind, in the order of their creation

KINDS = {"Conv2D": "convolution", "DepthwiseConv2D": "depthwise", "BatchNormalization": "norm", "PReLU": "activation"}
NECK = {  # layers with names of their own
    "neck.pool.convolution": "GDC_dw",
    "neck.pool.norm": "GDC_batchnorm",
    "neck.projection.linear": "GDC_conv",
    "neck.projection.norm": "pre_embedding",
}
NORM = {"weight": "gamma", "bias": "beta", "running_mean": "moving_mean", "running_var": "moving_variance"}
AXES = {"kernel": (3, 2, 0, 1), "depthwise_kernel": (2, 3, 0, 1)}  # to (out, in, height, width)


@sources.register("ghostfacenets", citation=GHOSTFACENETS)
class GhostFaceNets(CheckpointSource):
    """HamadYA/GhostFaceNets: Keras `.h5` files of version 1, of any width and stride."""

    url = "https://github.com/HamadYA/GhostFaceNets"
    files = "Keras `.h5`"
    license = "not stated (issue #23 is inconclusive); the code is MIT"
    model_type = "ghostfacenet"
    preprocessing = {"image_mean": [0.5] * 3, "image_std": [128 / 255] * 3}  # noqa: RUF012  (x - 127.5) / 128

    def recognizes(self, checkpoint: Checkpoint) -> bool:
        return "GDC_dw/GDC_dw/depthwise_kernel:0" in checkpoint.content

    def read(self, checkpoint: Checkpoint, **overrides: Any) -> tuple[FaceConfig, StateDict, Tensor | None]:
        found = checkpoint.tensors()
        layers = in_order_of_creation(checkpoint.settings)
        if not self.recognizes(checkpoint) or not layers:
            raise ValueError(
                f"{checkpoint.origin}: not a GhostFaceNet with its network: expected the layer GDC_dw and the file's "
                f"`model_config`, found {', '.join(sorted(found)[:3]) or 'no weights'} and "
                f"{'a' if layers else 'no'} `model_config`. Save it with `model.save(path, include_optimizer=False)`."
            )
        try:
            config = architecture(layers, checkpoint, overrides)
            expected = skeleton_of(config)
            theirs = dict(their_names(expected, layers))
        except IndexError as error:  # a list of layers ends early
            raise ValueError(f"{checkpoint.origin}: its layers are not those of a GhostFaceNet v1.") from error
        centers = {name for name in found if name.endswith("/norm_dense_w:0")}
        ours = {name: as_ours(tensor, name) for name, tensor in found.items() if name not in centers}
        shapes = {theirs[name]: tensor.shape for name, tensor in expected.state_dict().items() if name in theirs}
        check_tensors(ours, shapes, ours.keys() - shapes.keys(), checkpoint.origin)
        class_centers = found[centers.pop()].T if len(centers) == 1 else None
        return config, {name: ours[theirs[name]] for name in theirs}, class_centers

    def export(self, model: FacePreTrainedModel) -> StateDict:
        raise ValueError("export_checkpoint writes no Keras files.")


def in_order_of_creation(settings: dict[str, Any]) -> Layers:
    """
    The layers with automatic names, which are numbered in the order of creation, from any number; the file has them in
    another order.
    """
    layers: Layers = defaultdict(list)
    for layer in settings.get("config", {}).get("layers", []):
        if layer["class_name"] in KINDS and layer["config"]["name"] not in NECK.values():
            layers[KINDS[layer["class_name"]]].append(layer["config"])
    for of_kind in layers.values():
        of_kind.sort(key=lambda layer: int(re.search(r"(?:_(\d+))?$", layer["name"])[1] or 0))
    return layers


def architecture(layers: Layers, checkpoint: Checkpoint, overrides: dict[str, Any]) -> GhostFaceNetConfig:
    """Read the architecture from Keras's layers; `overrides` take precedence."""
    stem, *convolutions, head = layers["convolution"]
    depthwise = list(layers["depthwise"])
    image = checkpoint.settings["config"]["layers"][0]["config"]
    _, height, _, num_channels = image.get("batch_input_shape") or image["batch_shape"]
    read: dict[str, Any] = {
        "stem_size": stem["filters"],
        "stem_stride": stem["strides"][0],
        "head_size": head["filters"],
        "head_bias": "GDC_conv/GDC_conv/bias:0" in checkpoint.content,
        "embedding_size": checkpoint.content["GDC_conv/GDC_conv/kernel:0"].shape[-1],
        "batch_norm_eps": layers["norm"][0]["epsilon"],
        "image_size": height,
        "num_channels": num_channels,
    }
    lists = ("hidden_sizes", "expansion_sizes", "squeeze_sizes", "kernel_sizes", "strides")
    read |= {name: [] for name in lists}
    channels = stem["filters"]
    while convolutions:
        bottleneck = _bottleneck(convolutions, depthwise, channels)
        for name, value in zip(lists, bottleneck, strict=True):
            read[name].append(value)
        channels = bottleneck[0]
    return GhostFaceNetConfig(**{**read, **overrides})


def _bottleneck(convolutions: list[dict], depthwise: list[dict], channels: int) -> tuple[int, int, int, int, int]:
    """Take the layers of one bottleneck off the lists, and return its settings."""
    expansion = 2 * convolutions.pop(0)["filters"]
    depthwise.pop(0)  # the cheap half of the first ghost module
    strided = depthwise.pop(0) if depthwise[0]["strides"][0] > 1 else None
    squeezed = 0
    if convolutions[0]["use_bias"]:  # channel attention
        squeezed = convolutions.pop(0)["filters"]
        convolutions.pop(0)
    out_channels = 2 * convolutions.pop(0)["filters"]
    depthwise.pop(0)
    shortcut = None
    if strided or out_channels != channels:
        shortcut = depthwise.pop(0)
        convolutions.pop(0)
    kernel_size = shortcut["kernel_size"][0] if shortcut else 3  # not used without a shortcut
    return out_channels, expansion, squeezed, kernel_size, strided["strides"][0] if strided else 1


def their_names(model: FacePreTrainedModel, layers: Layers) -> Iterator[tuple[str, str]]:
    """Names of our tensors and of Keras's, whose layers are created in the order of our modules."""
    for name, module in model.named_modules():
        kind = kind_of(module)
        if kind is None:
            continue
        layer = NECK.get(name) or layers[kind].pop(0)["name"]
        names = NORM if kind == "norm" else {"weight": "kernel", "bias": "bias"}
        if kind == "depthwise":
            names = {"weight": "depthwise_kernel"}
        elif kind == "activation":
            names = {"weight": "alpha"}
        for ours, theirs in names.items():
            if getattr(module, ours) is not None:
                yield f"{name}.{ours}", f"{layer}/{layer}/{theirs}:0"


def kind_of(module: nn.Module) -> str | None:
    if isinstance(module, nn.Conv2d):
        return "convolution" if module.groups == 1 else "depthwise"
    if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
        return "norm"
    if isinstance(module, nn.PReLU):
        return "activation"
    return "convolution" if isinstance(module, nn.Linear) else None


def as_ours(tensor: Tensor, name: str) -> Tensor:
    kind = name.rpartition("/")[2].removesuffix(":0")
    if kind in AXES:
        tensor = tensor.permute(AXES[kind])
        return (tensor.flatten(1) if name.startswith("GDC_conv/") else tensor).contiguous()
    return tensor.flatten()
