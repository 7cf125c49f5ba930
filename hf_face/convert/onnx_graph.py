"""Reading ONNX files: the weights, and the order in which the network's layers use them."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..files import file_inside

# Nodes that compute weights from other weights, such as dequantization. Nothing else of a file is ever executed.
CONSTANT_OPS = {"Cast", "Constant", "DequantizeLinear", "Identity", "Reshape", "Squeeze", "Transpose", "Unsqueeze"}
# Nodes that change no value, or only compute the shape of a reshape.
SKIPPED_OPS = {"Cast", "Dropout", "Flatten", "Identity", "Reshape"}
SHAPE_OPS = {"Shape", "Gather", "Concat", "Unsqueeze", "Slice"}


@dataclass
class Node:
    """
    One layer of a network.

    Attributes:
        op, name, inputs, output, attributes: As in the file.
        weights: The constant ones of its inputs.
    """

    op: str
    name: str
    inputs: list[str]
    output: str
    attributes: dict[str, Any] = field(default_factory=dict)
    weights: list[Tensor] = field(default_factory=list)

    def __str__(self) -> str:
        return f"node {self.name or self.output} ({self.op})"


@dataclass
class Unit:
    """A residual unit: the layers of its two branches, whose outputs are added."""

    layers: list[Node]
    shortcut: list[Node]


@dataclass
class Graph:
    """
    A network with one input and one output.

    Attributes:
        nodes: Its layers, without those that only compute weights.
        input, output: Names of the tensors.
        input_shape: Channels, height and width of the input.
        origin: The file, for error messages.
    """

    nodes: list[Node]
    input: str
    output: str
    input_shape: tuple[int, ...]
    origin: str

    def path(self) -> Iterator[Node | Unit]:
        """
        The layers from input to output. Of two branches that are added, the longer one has the layers of the unit.

        Raises:
            ValueError: if the network is not such a path; names the node where it branches otherwise.
        """
        tensor = self.input
        while tensor != self.output:
            following = self.consumers(tensor)
            if len(following) == 2:
                (first, sum_of_first), (second, sum_of_second) = [self.branch(node, tensor) for node in following]
                if sum_of_first is not sum_of_second:
                    raise ValueError(f"{self.origin}: {sum_of_first} does not add the branches that start at {tensor}.")
                yield Unit(first, second) if len(first) >= len(second) else Unit(second, first)
                tensor = sum_of_first.output
            elif len(following) == 1:
                yield following[0]
                tensor = following[0].output
            else:
                named = ", ".join(map(str, following)) or "nothing"
                raise ValueError(f"{self.origin}: {tensor} is the input of {named}; expected one or two layers.")

    def branch(self, node: Node, start: str) -> tuple[list[Node], Node]:
        """The layers from `node` to the addition that ends its branch, and that addition."""
        layers = []
        while not (node.op == "Add" and not node.weights):
            layers.append(node)
            following = self.consumers(node.output)
            if len(following) != 1:
                raise ValueError(f"{self.origin}: {node} does not fit: the branch from {start} branches again.")
            node = following[0]
        return layers, node

    def consumers(self, tensor: str) -> list[Node]:
        return [node for node in self.nodes if tensor in node.inputs and node.op not in SHAPE_OPS]


def read_onnx(path: Path) -> Graph:
    """
    Read an ONNX file. Needs the package onnx.

    Raises:
        ImportError: if onnx is not installed.
        FileNotFoundError: if the file beside it that has its weights is missing.
        ValueError: if it is damaged, or is not a network from one image to one embedding.
    """
    try:
        import onnx
        from google.protobuf.message import DecodeError
    except ImportError as error:
        raise ImportError(f"{path}: ONNX files require onnx: pip install 'hf_face[onnx]'.") from error

    try:
        model = onnx.load(path, load_external_data=False)
    except DecodeError as error:
        raise ValueError(f"{path} is not a complete ONNX file ({error}). Is it a partial download?") from error
    load_weights_beside(model, path)
    constants = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    nodes = [_node(node, constants) for node in without_constant_nodes(model, constants)]
    read = {name for node in nodes for name in node.inputs}
    images = [value for value in model.graph.input if value.name in read]  # files may list the weights as inputs
    if len(images) != 1 or len(model.graph.output) != 1:
        raise ValueError(
            f"{path}: expected a network from one image to one embedding, found inputs "
            f"{', '.join(value.name for value in images) or '(none)'} and outputs "
            f"{', '.join(value.name for value in model.graph.output) or '(none)'}."
        )
    shape = tuple(dim.dim_value for dim in images[0].type.tensor_type.shape.dim[1:])
    return Graph(nodes, images[0].name, model.graph.output[0].name, shape, str(path))


def load_weights_beside(model: Any, path: Path) -> None:
    """Load the weights that a file keeps in others of its folder."""
    from onnx.external_data_helper import ExternalDataInfo, load_external_data_for_model, uses_external_data

    for tensor in filter(uses_external_data, model.graph.initializer):
        location = ExternalDataInfo(tensor).location
        if not file_inside(path.parent, location).is_file():
            raise FileNotFoundError(f"{path} keeps its weights in {location}, which is missing: put it beside it.")
    load_external_data_for_model(model, str(path.parent))


def without_constant_nodes(model: Any, constants: dict[str, Any]) -> list[Any]:
    """The nodes of a file without those that only compute weights, which are added to `constants`."""
    from onnx.reference import ReferenceEvaluator

    versions = {opset.domain: opset.version for opset in model.opset_import}
    remaining = []
    for node in model.graph.node:
        if node.op_type in CONSTANT_OPS and all(name in constants for name in node.input):
            weights = {name: constants[name] for name in node.input}
            constants[node.output[0]] = ReferenceEvaluator(node, opsets=versions).run(None, weights)[0]  # type: ignore[index]
        else:
            remaining.append(node)
    return remaining


def _node(node: Any, constants: dict[str, np.ndarray]) -> Node:
    import onnx

    return Node(
        node.op_type,
        node.name,
        [name for name in node.input if name not in constants],
        node.output[0],
        {attribute.name: onnx.helper.get_attribute_value(attribute) for attribute in node.attribute},
        [torch.from_numpy(np.array(constants[name])) for name in node.input if name in constants],
    )
