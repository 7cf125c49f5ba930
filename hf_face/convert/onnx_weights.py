"""The weights of an ONNX graph's layers as those of our modules."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from ..models import FusableMixin
from .checkpoint import StateDict
from .onnx_graph import Graph, Node

Linear = nn.Conv2d | nn.Linear
Norm = nn.BatchNorm1d | nn.BatchNorm2d


@dataclass
class Layer:
    """
    A module and the node that computes the same.

    Attributes:
        name, module, node: The module, with its name.
        norm_name, norm, norm_node: The batch norm that follows it in the model, if one does; the node is None if the
            graph has folded it.
    """

    name: str
    module: nn.Module
    node: Node
    norm_name: str | None = None
    norm: Norm | None = None
    norm_node: Node | None = None


def read_weights(model: FusableMixin, nodes: list[Node], graph: Graph, fused: bool | None) -> tuple[StateDict, bool]:
    """
    Assign the weights of a graph's layers to a model's modules, in order.

    Args:
        model: The model without folded batch norms, on the meta device.
        nodes: The layers of the graph, in the order of the model's modules.
        graph: The graph, for error messages.
        fused: Whether to return the weights of the fused model; by default, if the graph's batch norms are folded.

    Returns:
        The weights by our names, and whether they are those of the fused model.

    Raises:
        ValueError: for the first layer that does not fit.
    """
    layers = list(pair(model, nodes, graph))
    if fused is None:
        fused = any(layer.norm is not None and layer.norm_node is None for layer in layers)
    weights: StateDict = {}
    for layer in layers:
        if isinstance(layer.module, nn.PReLU):
            weights[f"{layer.name}.weight"] = layer.node.weights[0].flatten()
        elif isinstance(layer.module, Norm):
            weights |= prefixed(layer.name, norm_weights(layer.node))
        elif isinstance(layer.module, Linear):
            weights |= fused_layer(layer) if fused else layer_and_norm(layer)
    return weights, fused


def pair(model: FusableMixin, nodes: list[Node], graph: Graph) -> Iterator[Layer]:
    """The model's modules with their nodes."""
    names = {module: name for name, module in model.named_modules()}
    following = {layer: norm for _, _, layer, _, norm in model.foldable_norms()}
    kind, remaining = model.config.model_type, list(nodes)

    def take(module: nn.Module) -> Node:
        node = remaining.pop(0) if remaining else None
        expected, found = describe_module(module), describe_node(node) if node else "its end"
        if node is None or found != expected:
            raise ValueError(
                f"{graph.origin}: {node or 'it'} does not fit: {names[module]} of a {kind} model is {expected}, "
                f"found {found}."
            )
        return node

    for module, name in names.items():
        if describe_module(module) and module not in following.values():
            layer = Layer(name, module, take(module))
            if (norm := following.get(module)) is not None:
                layer.norm_name, layer.norm = names[norm], norm
                is_next = remaining and remaining[0].inputs == [layer.node.output]  # not that of the unit after this
                if is_next and remaining[0].op == "BatchNormalization":
                    layer.norm_node = take(norm)
            yield layer
    if remaining:
        raise ValueError(f"{graph.origin}: {remaining[0]} does not fit: a {kind} model ends before it.")


def describe_module(module: nn.Module) -> str | None:
    """What the graph's layer must have in common with a module; None for modules that are not layers."""
    if isinstance(module, nn.Conv2d):
        return _convolution(module.weight.shape, module.stride[0], int(module.padding[0]), module.groups)
    if isinstance(module, nn.Linear):
        return f"a linear layer {tuple(module.weight.shape)}"
    if isinstance(module, nn.PReLU):
        return f"a PReLU of {module.num_parameters} channels"
    if isinstance(module, Norm):
        return f"a batch norm of {module.num_features} channels, epsilon {module.eps:.6g}"
    return f"a pooling with stride {module.stride}" if isinstance(module, nn.MaxPool2d) else None


def describe_node(node: Node) -> str:
    """As [`describe_module`], for a layer of a graph."""
    told = node.attributes
    if node.op == "Conv":
        strides, pads = told.get("strides", [1]), told.get("pads", [0])
        return _convolution(node.weights[0].shape, strides[0], pads[0], told.get("group", 1))
    if node.op in ("Gemm", "MatMul"):
        return f"a linear layer {tuple(layer_weights(node)[0].shape)}"
    if node.op == "PRelu":
        return f"a PReLU of {node.weights[0].numel()} channels"
    if node.op == "BatchNormalization":
        return f"a batch norm of {len(node.weights[0])} channels, epsilon {told.get('epsilon', 1e-5):.6g}"
    return f"a pooling with stride {told['strides'][0]}" if node.op == "MaxPool" else node.op


def _convolution(shape: tuple[int, ...], stride: int, padding: int, groups: int) -> str:
    return f"a convolution {tuple(shape)} with stride {stride}, padding {padding} and {groups} groups"


def layer_weights(node: Node) -> tuple[Tensor, Tensor | None]:
    """Weight and bias of a convolution or linear layer."""
    weight, *bias = node.weights
    if node.op == "MatMul" or (node.op == "Gemm" and not node.attributes.get("transB")):
        weight = weight.T.contiguous()
    return weight, bias[0] if bias else None


def norm_weights(node: Node) -> StateDict:
    weight, bias, mean, variance = node.weights
    return batch_norm(weight, bias, mean, variance)


def identity_norm(norm: Norm) -> StateDict:
    """A batch norm that divides by `sqrt(variance + epsilon) = 1`."""
    ones, zeros = torch.ones(norm.num_features), torch.zeros(norm.num_features)
    return batch_norm(ones, zeros, zeros.clone(), ones - norm.eps)


def batch_norm(weight: Tensor, bias: Tensor, mean: Tensor, variance: Tensor) -> StateDict:
    return {
        "weight": weight,
        "bias": bias,
        "running_mean": mean,
        "running_var": variance,
        "num_batches_tracked": torch.tensor(0),
    }


def fused_layer(layer: Layer) -> StateDict:
    """A layer with its batch norm folded into it."""
    weight, bias = layer_weights(layer.node)
    if layer.norm is not None and layer.norm_node is not None:
        gamma, beta, mean, variance = layer.norm_node.weights
        weight, bias = fuse_conv_bn_weights(weight, bias, mean, variance, layer.norm.eps, gamma, beta)
    return named_weights(layer, weight.detach(), None if bias is None else bias.detach())


def layer_and_norm(layer: Layer) -> StateDict:
    """A layer and its batch norm, which changes nothing if the graph has folded it."""
    weight, bias = layer_weights(layer.node)
    found: StateDict = {}
    if layer.norm is not None:
        norm = identity_norm(layer.norm) if layer.norm_node is None else norm_weights(layer.norm_node)
        if layer.module.bias is None and bias is not None:
            norm["running_mean"], bias = norm["running_mean"] - bias, None  # subtracted before all else
        found |= prefixed(layer.norm_name, norm)
    return found | named_weights(layer, weight, bias)


def named_weights(layer: Layer, weight: Tensor, bias: Tensor | None) -> StateDict:
    """A layer's weights by our names; one that adds nothing in the graph has a bias of zeros if ours has one."""
    if bias is None and layer.module.bias is not None:
        bias = torch.zeros(len(weight))
    return prefixed(layer.name, {"weight": weight} | ({} if bias is None else {"bias": bias}))


def prefixed(name: str | None, tensors: StateDict) -> StateDict:
    return {f"{name}.{key}": tensor for key, tensor in tensors.items()}
