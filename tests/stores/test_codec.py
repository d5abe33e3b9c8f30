"""Values survive the codec; bytes that are none are `Unreadable`, and never anything else."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import MISSING, fields, replace
from typing import Any, get_args

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from shared_core.store.codec import (
    decode_decision,
    decode_exact,
    decode_feedback,
    decode_row,
    decode_texts,
    encode_decision,
    encode_exact,
    encode_example,
    encode_feedback,
)
from shared_core.store.fields import MAX_VALUE_BYTES, Unreadable
from shared_core.records import (
    ArmRecord,
    Average,
    DecisionRecord,
    Ending,
    Entry,
    ExactAnswer,
    Example,
    Feedback,
    Statistics,
    Texts,
    Tier,
)
from tests.stores.makers import make_decision, make_exact, make_example, make_feedback

finite = st.floats(-1e30, 1e30)
counts = st.integers(0, 2**31 - 1)
places = st.integers(0, 2**53 - 1)
text = st.text(st.characters(codec=None), max_size=40)  # lone surrogates too: they come out of broken JSON
whole_text = st.text(max_size=40)
averages = st.builds(Average, st.floats(0, 1), counts)
statistics = st.builds(Statistics, averages, averages, finite, finite, finite, counts)
sources = st.sampled_from(["traffic", "replay", "correction", "import", "synthetic"])
entries = st.builds(Entry, text, text, text, sources, text, finite, counts, text, statistics)
vectors = hnp.arrays(
    np.float32, st.integers(1, 20), elements=st.floats(width=32, allow_nan=False, allow_infinity=False)
)
examples = st.builds(Example, entries, st.builds(Texts, whole_text, whole_text), vectors)
answers = st.builds(ExactAnswer, text, text, st.binary(max_size=60), text, text, finite)
numbers = st.lists(finite, max_size=5).map(tuple)
arms = st.builds(
    ArmRecord,
    *(text, finite, finite, finite, finite, finite, finite, st.booleans(), finite, numbers),
    st.lists(counts, max_size=5).map(tuple),
)
decisions = st.builds(
    DecisionRecord,
    *(text, text, text, text),
    numbers,
    st.lists(text, max_size=5).map(tuple),
    *(finite, st.booleans(), counts, finite, text, text, counts, counts, counts, counts),
    st.sampled_from(get_args(Tier)),
    *(text, text),
    st.lists(text, max_size=5).map(tuple),
    *(numbers, finite, st.lists(arms, max_size=3).map(tuple), finite),
    st.dictionaries(text, counts, max_size=3),
    *(finite, finite, finite, st.sampled_from(get_args(Ending)), text, st.booleans()),
    vector=st.none()
    | hnp.arrays(np.float16, st.integers(1, 20), elements=st.floats(width=16, allow_nan=False, allow_infinity=False)),
)
judgements = st.builds(Feedback, text, text, finite, finite)
plain_json = st.recursive(
    st.none() | st.booleans() | counts | finite | text,
    lambda inner: st.lists(inner) | st.dictionaries(text, inner),
    max_leaves=6,
)


@given(examples)
def test_examples_come_back(example: Example) -> None:
    encoded = encode_example(example)
    entry = example.entry
    row = decode_row(entry.scope, entry.id, encoded.entry, encoded.statistics, encoded.vector)
    assert row.entry == entry
    assert row.vector.tobytes() == example.vector.tobytes()
    assert decode_texts(entry.scope, entry.id, encoded.texts) == example.texts


@given(answers, decisions, judgements)
def test_answers_decisions_and_judgements_come_back(
    answer: ExactAnswer, decision: DecisionRecord, judgement: Feedback
) -> None:
    assert decode_exact(answer.key, encode_exact(answer)) == answer
    found = decode_decision(decision.id, encode_decision(decision))
    assert found == decision
    assert np.array_equal(found.vector, decision.vector)
    assert decode_feedback(encode_feedback(judgement)) == judgement


ENCODED = encode_example(make_example("e1", "s"))
# name: bytes that can be read, and what reads them
READERS: dict[str, tuple[bytes, Callable[[object], object]]] = {
    "entry": (ENCODED.entry, lambda data: decode_row("s", "e1", data, ENCODED.statistics, ENCODED.vector)),
    "statistics": (ENCODED.statistics, lambda data: decode_row("s", "e1", ENCODED.entry, data, ENCODED.vector)),
    "vector": (ENCODED.vector, lambda data: decode_row("s", "e1", ENCODED.entry, ENCODED.statistics, data)),
    "texts": (ENCODED.texts, lambda data: decode_texts("s", "e1", data)),
    "exact": (encode_exact(make_exact("k1")), lambda data: decode_exact("k1", data)),
    "decision": (encode_decision(make_decision("d1")), lambda data: decode_decision("d1", data)),
    "feedback": (encode_feedback(make_feedback()), decode_feedback),
}
every_reader = pytest.mark.parametrize("name", READERS)
of_json = pytest.mark.parametrize("name", [name for name in READERS if name not in ("vector",)])


def reads_or_refuses(name: str, data: object) -> bool:
    """True if `data` was read; any exception but `Unreadable` fails the test."""
    try:
        READERS[name][1](data)
    except Unreadable:
        return False
    return True


def changed(data: bytes, **fields: object) -> bytes:
    """The JSON of `data` (its first line, for an exact answer) with other fields."""
    head, newline, payload = data.partition(b"\n")
    text = json.dumps(json.loads(head) | fields, ensure_ascii=False)
    return text.encode("utf-8", "surrogatepass") + newline + payload


@every_reader
@given(st.binary(max_size=300))
@example(b'{"v":1}')
@example(b"\xff\xff\xff\xff\xff\xff\xff\x7f{}")
@example(b"\x02\x00\x00\x00\x00\x00\x00\x00{}")
def test_noise_is_unreadable(name: str, noise: bytes) -> None:
    read = reads_or_refuses(name, noise)
    # 32 finite bytes are a vector, and an empty table holds no weights: those are whole
    assert not read or (name == "vector" and len(noise) == len(ENCODED.vector)) or name == "weights"


@every_reader
@given(st.data())
def test_flipped_bytes_never_raise_anything_else(name: str, data: st.DataObject) -> None:
    wreck = bytearray(READERS[name][0])
    for _ in range(data.draw(st.integers(1, 4))):
        wreck[data.draw(st.integers(0, len(wreck) - 1))] = data.draw(st.integers(0, 255))
    reads_or_refuses(name, bytes(wreck))


@every_reader
def test_what_was_cut_short_is_unreadable(name: str) -> None:
    whole = READERS[name][0]
    assert reads_or_refuses(name, whole)
    end = len(whole) if name != "exact" else whole.index(b"\n") + 1  # a payload of any length is a payload
    assert not any(reads_or_refuses(name, whole[:length]) for length in range(end))


@every_reader
@pytest.mark.parametrize("data", [None, 1, "text", 2.5, ["list"]], ids=repr)
def test_what_is_not_bytes_is_unreadable(name: str, data: object) -> None:
    assert not reads_or_refuses(name, data)


@of_json
@given(st.data())
def test_fields_of_other_types_never_raise_anything_else(name: str, data: st.DataObject) -> None:
    whole = READERS[name][0]
    field = data.draw(st.sampled_from(sorted(json.loads(whole.partition(b"\n")[0]))))
    value = data.draw(plain_json | st.sampled_from([10**400, -(2**63), [1e308] * 3, {"v": 1}]))
    reads_or_refuses(name, changed(whole, **{field: value}))


@of_json
@pytest.mark.parametrize("version", [0, 2, 99, "1", None, [1]], ids=repr)
def test_an_unknown_version_is_unreadable(name: str, version: object) -> None:
    whole = READERS[name][0]
    assert reads_or_refuses(name, changed(whole))
    assert not reads_or_refuses(name, changed(whole, v=version))


@of_json
def test_nesting_without_end_is_unreadable(name: str) -> None:
    for deep in (b"[" * 1_000_000, b'{"v":1,"id":' + b"[" * 100_000 + b"]" * 100_000 + b"}\n"):
        assert not reads_or_refuses(name, deep)


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        ("entry", {"source": "hearsay"}),
        ("entry", {"id": "e2"}),
        ("entry", {"scope": "other"}),
        ("entry", {"dimension": 7}),
        ("entry", {"created_at": "now"}),
        ("entry", {"size": True}),
        ("entry", {"size": 2**31}),
        ("entry", {"size": -1}),
        ("entry", {"created_at": 1e31}),
        ("entry", {"created_at": -1e300}),
        ("texts", {"scope": "other"}),
        ("texts", {"id": "e2"}),
        ("texts", {"id": ""}),
        ("texts", {"query": "half \ud83d"}),
        ("texts", {"answer": "\udca9 half"}),
        ("statistics", {"quality": [0.5, -1]}),
        ("statistics", {"helpfulness": [0.5, -(2**40)]}),
        ("statistics", {"quality": [0.5, 2**31]}),
        ("statistics", {"quality": [-0.1, 1]}),
        ("statistics", {"helpfulness": [1e300, 1]}),
        ("statistics", {"offload_value": 1e31}),
        ("statistics", {"replay_count": -1}),
        ("statistics", {"quality": [0.5]}),
        ("statistics", {"quality": [0.5, 0.5]}),
        ("statistics", {"quality": {"value": 1}}),
        ("exact", {"key": "k2"}),
        ("decision", {"id": "d2"}),
        ("decision", {"explored": 1}),
        ("decision", {"prompt_tokens": -1}),
        ("decision", {"version": 2**53}),
        ("decision", {"features": [1e31]}),
        ("decision", {"surface": {"words": -1}}),
        ("decision", {"features": [None]}),
        ("decision", {"example_ids": [1]}),
        ("decision", {"dimension": 7}),
        ("decision", {"dimension": -8}),
        ("decision", {"tier": "hearsay"}),
        ("decision", {"surface": {"words": 0.5}}),
        ("decision", {"arms": [{"arm": "small", "utility": ["much"]}]}),
        ("decision", {"arms": [{}]}),
    ],
)
def test_wrong_fields_are_unreadable(name: str, fields: dict[str, object]) -> None:
    assert not reads_or_refuses(name, changed(READERS[name][0], **fields))


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999"])
def test_numbers_that_are_not_finite_are_unreadable(number: str) -> None:
    whole = READERS["feedback"][0].replace(b'"score":0.7', b'"score":' + number.encode())
    assert not reads_or_refuses("feedback", whole)
    assert not reads_or_refuses("vector", np.array([np.nan] * 8, dtype="<f4").tobytes())


def test_what_is_too_large_is_neither_read_nor_written() -> None:
    huge = "x" * MAX_VALUE_BYTES
    with pytest.raises(ValueError, match="cannot be stored"):
        encode_example(replace(make_example(), texts=Texts("q", huge)))
    with pytest.raises(ValueError, match="cannot be stored"):
        encode_exact(make_exact(payload=huge.encode()))
    assert not reads_or_refuses("texts", b'{"v":1,"query":"","answer":"' + huge.encode() + b'"}')


@pytest.mark.parametrize("vector", [[], [[1.0]], [np.nan], [np.inf]], ids=repr)
def test_a_vector_that_is_none_is_not_written(vector: list[float]) -> None:
    with pytest.raises(ValueError, match="vector of example e1"):
        encode_example(replace(make_example("e1"), vector=np.array(vector, dtype=np.float32)))


NEEDED = {  # what says which value it is, or what there would be nothing without
    "entry": {"v", "id", "scope"},
    "statistics": {"v"},
    "texts": {"v", "query", "answer", "scope", "id"},
    "exact": {"v", "key", "scope"},
    "decision": {"v", "id", "scope"},
    "feedback": {"v", "decision_id", "rater", "score", "at"},
}
KINDS: dict[str, Any] = {
    "entry": Entry,
    "statistics": Statistics,
    "exact": ExactAnswer,
    "decision": DecisionRecord,
    "feedback": Feedback,
}


def default_of(kind: Any, name: str) -> object:
    """The default of a field of a dataclass."""
    [field] = [field for field in fields(kind) if field.name == name]
    return field.default if field.default_factory is MISSING else field.default_factory()


@pytest.mark.parametrize("name", NEEDED)
def test_a_missing_field_has_its_default(name: str) -> None:
    """Another release did not write it."""
    whole, read = READERS[name]
    head, newline, rest = whole.partition(b"\n")
    stored = json.loads(head)
    for field in set(stored) - NEEDED[name]:
        less = json.dumps({key: value for key, value in stored.items() if key != field}).encode()
        found: Any = read(less + newline + rest)
        found = found.entry if name == "entry" else found.entry.statistics if name == "statistics" else found
        if field not in ("dimension", "meta"):
            assert getattr(found, field) == default_of(KINDS[name], field)
    for field in NEEDED[name]:
        less = json.dumps({key: value for key, value in stored.items() if key != field}).encode()
        assert not reads_or_refuses(name, less + newline + rest)


@of_json
def test_an_unknown_field_is_left_out(name: str) -> None:
    """A later release wrote it."""
    whole, read = READERS[name]
    assert read(changed(whole, of_a_later_release={"any": ["thing", None]})) == read(whole)


@pytest.mark.parametrize("number", [np.nan, np.inf, -np.inf])
def test_a_number_that_is_not_finite_is_not_written(number: float) -> None:
    with pytest.raises(ValueError, match="not finite"):
        encode_feedback(make_feedback(score=number))
    with pytest.raises(ValueError, match="not finite"):
        encode_decision(replace(make_decision(), similarity=(0.5, number)))
    with pytest.raises(ValueError, match="vector of decision d1"):
        encode_decision(replace(make_decision("d1"), vector=np.array([number], dtype=np.float16)))


@pytest.mark.parametrize("word", ["null", "NaN", "\ud7ff\uffff", '"\\null', "\U0001f4a9"])
def test_a_word_that_looks_like_damage_is_a_text(word: str) -> None:
    example = replace(make_example("e1"), texts=Texts(word, f"{word} {word}"))
    assert decode_texts("s", "e1", encode_example(example).texts) == example.texts


@pytest.mark.parametrize("texts", [Texts("\ud800", "a"), Texts("q", "null \udfff")])
def test_half_a_character_is_not_written(texts: Texts) -> None:
    with pytest.raises(ValueError, match="half a character"):
        encode_example(replace(make_example("e1"), texts=texts))


def test_texts_of_an_earlier_release_have_no_owner() -> None:
    assert decode_texts("s", "e1", b'{"v":1,"query":"q","answer":"a"}') == Texts("q", "a")


def test_a_vector_may_be_left_out() -> None:
    plain = encode_decision(make_decision(vector=False))
    assert decode_decision("d1", plain).vector is None
    assert not reads_or_refuses("decision", plain + b"\n" + bytes(3))
    assert not reads_or_refuses("decision", READERS["decision"][0] + bytes(2))
