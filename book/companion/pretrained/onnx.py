"""Reads a model's weights back out of an ONNX graph.

Exporting to ONNX keeps the names of biases, norms and scales, but renames the matrices (they are transposed on the
way) and the constants that were computed. A matrix is found by its place in the graph: its product is what a named
bias is added to.
"""

import torch
from torch import Tensor

from ..paths import DataError


def onnx_weights(raw: bytes, prefix: str) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Return the weights under `prefix` with their own names (without it), and the nameless constants.

    The weight of each linear map is named after its bias and turned into torch's layout `(outputs, inputs)`. Nameless
    constants are those, not matrices of a linear map, whose name was made by the exporter. Raises `DataError` where
    the bytes are no ONNX model. About 0.3 s for 97 MB.
    """
    import numpy
    import onnx
    from google.protobuf.message import DecodeError

    try:
        graph = onnx.load_model_from_string(raw).graph
    except DecodeError:
        raise DataError("the model file can't be read as ONNX: it is damaged or of another format.") from None
    initial = {
        tensor.name: torch.from_numpy(numpy.array(onnx.numpy_helper.to_array(tensor))) for tensor in graph.initializer
    }
    weights = {name.removeprefix(prefix): value for name, value in initial.items() if name.startswith(prefix)}
    producer = {output: node for node in graph.node for output in node.output}
    matrices = set()
    for node in graph.node:
        biases = [name for name in node.input if name.startswith(prefix) and name.endswith(".bias")]
        products = [producer[name] for name in node.input if name in producer and producer[name].op_type == "MatMul"]
        if node.op_type == "Add" and biases and products:
            (matrix,) = (name for name in products[0].input if name in initial)
            matrices.add(matrix)
            weights[biases[0].removeprefix(prefix).removesuffix("bias") + "weight"] = initial[matrix].T.contiguous()
    nameless = {name: value for name, value in initial.items() if name.startswith("onnx::") and name not in matrices}
    return weights, nameless


def dinov2_weights(raw: bytes) -> dict[str, Tensor]:
    """Return the backbone's weights under the names of `transformers.Dinov2Model`."""
    weights, nameless = onnx_weights(raw, "backbone.")
    # The position embeddings were split into the class token's and the patches' when exported.
    rows = sorted(nameless.values(), key=lambda value: value.shape[1] if value.ndim == 3 else 0)
    if [tuple(value.shape) for value in rows] != [(1, 1, 384), (1, 1369, 384)]:
        raise DataError("the ONNX file does not hold the two position embeddings of DINOv2 ViT-S/14.")
    return {**weights, "embeddings.position_embeddings": torch.cat(rows, 1)}
