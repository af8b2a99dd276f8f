"""The two readers of model files, on files made here."""

import numpy as np
import pytest
import torch

from companion.paths import DataError
from companion.pretrained.gguf import llama_settings, llama_weights, read_gguf, tokenizer_of
from companion.pretrained.onnx import dinov2_weights, onnx_weights


@pytest.fixture(scope="module")
def gguf_file(tmp_path_factory):
    """Give a GGUF file with every kind of tensor that is read, and what the oracle makes of it."""
    gguf = pytest.importorskip("gguf")
    path = tmp_path_factory.mktemp("gguf") / "small.gguf"
    rng = np.random.default_rng(0)
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_uint32("llama.attention.head_count", 2)
    writer.add_float32("some.number", 0.5)
    writer.add_array("some.words", ["one", "zwei", "trois"])
    writer.add_array("some.numbers", [1, 2, 3])
    wanted = {}
    for name, kind, shape in (
        ("output_norm", "F32", (5,)),
        ("blk.0.attn_q", "Q4_1", (8, 64)),
        ("token_embd", "Q8_0", (3, 96)),
    ):
        values = rng.normal(1, 2, shape).astype(np.float32)
        kind = gguf.GGMLQuantizationType[kind]
        packed = gguf.quantize(values, kind)
        writer.add_tensor(f"{name}.weight", packed, raw_dtype=kind)
        wanted[f"{name}.weight"] = torch.from_numpy(gguf.dequantize(packed, kind))
        assert np.abs(wanted[f"{name}.weight"].numpy() - values).max() < 0.5
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path, wanted


def test_gguf_is_read_as_its_own_library_reads_it(gguf_file):
    path, wanted = gguf_file
    metadata, tensors = read_gguf(path)
    assert metadata["some.words"] == ["one", "zwei", "trois"] and metadata["some.numbers"] == [1, 2, 3]
    assert metadata["some.number"] == 0.5 and metadata["general.architecture"] == "llama"
    assert tensors.keys() == wanted.keys()
    for name, tensor in tensors.items():
        assert torch.equal(tensor, wanted[name]), name
    assert read_gguf(path, tensors=False) == (metadata, {})


@pytest.mark.parametrize("damage", ["short", "head", "empty"])
def test_damaged_gguf_is_one_sentence(gguf_file, damage, tmp_path):
    raw, path = gguf_file[0].read_bytes(), tmp_path / "damaged.gguf"
    path.write_bytes({"short": raw[:-40], "head": b"GGML" + raw[4:], "empty": b""}[damage])
    with pytest.raises(DataError, match=r"can't be read as GGUF .* damaged or of another format"):
        read_gguf(path)


def test_rotary_rows_go_from_neighbours_to_halves():
    # llama.cpp's rows: (x0, y0, x1, y1) of each head; transformers': (x0, x1, y0, y1).
    rows = torch.arange(8.0)[:, None]
    settings = {"llama.attention.head_count": 2, "llama.attention.head_count_kv": 1}
    weights = llama_weights(settings, {"blk.3.attn_q.weight": rows, "blk.3.attn_k.weight": rows[:4]})
    assert weights["model.layers.3.self_attn.q_proj.weight"][:, 0].tolist() == [0, 2, 1, 3, 4, 6, 5, 7]
    assert weights["model.layers.3.self_attn.k_proj.weight"][:, 0].tolist() == [0, 2, 1, 3]


def test_other_models_than_llama_are_refused():
    with pytest.raises(DataError, match="holds a gpt2 model"):
        llama_settings({"general.architecture": "gpt2"})
    with pytest.raises(DataError, match=r"blk\.0\.attn_qkv\.weight has no place"):
        llama_weights(
            {"llama.attention.head_count": 2, "llama.attention.head_count_kv": 1},
            {"blk.0.attn_qkv.weight": torch.zeros(2, 2)},
        )
    with pytest.raises(DataError, match="tokeniser 'gpt-2' is unknown"):
        tokenizer_of({"tokenizer.ggml.pre": "gpt-2"})


def test_onnx_matrices_are_found_behind_their_biases():
    onnx = pytest.importorskip("onnx")
    helper = onnx.helper
    matrix, bias, constant = torch.randn(3, 2), torch.randn(2), torch.randn(1, 2)
    nodes = [
        helper.make_node("MatMul", ["x", "onnx::MatMul_1"], ["product"]),
        helper.make_node("Add", ["net.fc.bias", "product"], ["mapped"]),
        helper.make_node("Mul", ["mapped", "onnx::Mul_2"], ["y"]),
    ]
    named = {"onnx::MatMul_1": matrix, "net.fc.bias": bias, "onnx::Mul_2": constant, "other.bias": bias}
    shape = [onnx.TensorProto.FLOAT, None]
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("x", *shape)],
        [helper.make_tensor_value_info("y", *shape)],
        [onnx.numpy_helper.from_array(value.numpy(), name) for name, value in named.items()],
    )
    raw = helper.make_model(graph).SerializeToString()
    weights, nameless = onnx_weights(raw, "net.")
    assert weights.keys() == {"fc.weight", "fc.bias"} and nameless.keys() == {"onnx::Mul_2"}
    assert torch.equal(weights["fc.weight"], matrix.T) and torch.equal(weights["fc.bias"], bias)
    with pytest.raises(DataError, match="two position embeddings"):
        dinov2_weights(raw)
    with pytest.raises(DataError, match="can't be read as ONNX"):
        onnx_weights(b"damaged", "net.")
