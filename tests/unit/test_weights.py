"""A small model's weights as eight-bit ones: the same model, another file."""

import numpy as np
import pytest

gguf = pytest.importorskip("gguf")

from shared_core.inference.weights import eight_bit  # noqa: E402

Q4, Q8, F32 = (gguf.GGMLQuantizationType[name] for name in ("Q4_1", "Q8_0", "F32"))
TOKENS = ["<|end|>", "käse", "\N{CHEESE WEDGE}"]


@pytest.fixture
def model(tmp_path):
    """A GGUF file with one tensor of each kind that the packaged model has, and metadata of every shape."""
    rng = np.random.default_rng(0)
    path = tmp_path / "tiny.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name("tiny")
    writer.add_block_count(2)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_add_bos_token(value=False)
    writer.add_token_list(TOKENS)
    writer.add_token_types([3, 1, 1])
    for name, kind in [("four", Q4), ("eight", Q8)]:
        weights = rng.normal(size=(6, 64)).astype(np.float32)
        writer.add_tensor(name, gguf.quants.quantize(weights, kind), raw_dtype=kind)
    writer.add_tensor("norm", rng.normal(size=64).astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def tensors(path):
    return {tensor.name: tensor for tensor in gguf.GGUFReader(path).tensors}


def metadata(path):
    return {
        name: (field.types, field.contents())
        for name, field in gguf.GGUFReader(path).fields.items()
        if name != "GGUF.kv_count"
    }


def test_four_bit_weights_keep_their_values_as_eight_bit_ones(model):
    with eight_bit(model) as path:
        before, after = tensors(model)["four"], tensors(path)["four"]
        assert (before.tensor_type, after.tensor_type) == (Q4, Q8)
        old, new = (gguf.quants.dequantize(t.data, t.tensor_type).reshape(-1, 32) for t in (before, after))
        assert (np.abs(new - old) <= np.abs(old).max(axis=1, keepdims=True) * (1 / 254 + 1 / 1024)).all()


def test_all_else_stays_as_it_was(model):
    with eight_bit(model) as path:
        assert metadata(path) == metadata(model)
        assert metadata(path)["tokenizer.ggml.tokens"][1] == TOKENS
        for name in ("eight", "norm"):
            before, after = tensors(model)[name], tensors(path)[name]
            assert after.tensor_type == before.tensor_type
            assert np.array_equal(after.data, before.data)


def test_the_file_is_gone_afterwards(model):
    with eight_bit(model) as path:
        assert path.name == model.name
        assert path.exists()
    assert not path.parent.exists()
