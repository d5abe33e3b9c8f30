"""Turns, time limits, numbers of answers and seeds of a model in this process. The model is tiny and random; the real
one is in integration."""

import threading
import time
from itertools import count

import pytest

from shared_core.errors import ConfigurationError, ModelFailed
from shared_core.inference.huggingface import HuggingFaceModel
from shared_core.values import Message
from tests.tiny_model import write_tiny_model

ASKED = [Message("user", "w1 w2 w3")]
LONGER = [Message("system", "w9 w8"), Message("user", "w7 w6 w5 w4 w3")]

pytestmark = pytest.mark.timeout(60)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_tiny_model(tmp_path_factory.mktemp("tiny"))


@pytest.fixture
def make(folder):
    return lambda **options: HuggingFaceModel(folder, device="cpu", **options)


class Steps:
    """A clock on which each look takes a second."""

    def __init__(self):
        self._seconds = count()

    def __call__(self):
        return float(next(self._seconds))


# answers --------------------------------------------------------------------------------------------------------


def test_a_batch_answers_as_one_by_one(make):
    model = make()
    alone = [model.complete(messages, max_tokens=9) for messages in (ASKED, LONGER)]
    together = model.complete_batch([ASKED, LONGER], max_tokens=9)
    assert [c.texts for c in together] == [c.texts for c in alone]
    assert [c.prompt_tokens for c in together] == [4, 9]
    for one, other in zip(alone, together, strict=True):
        assert one.logprobs[0] == pytest.approx(other.logprobs[0], abs=1e-4)
        assert len(one.logprobs[0]) == one.completion_tokens == 9
        assert one.finish_reasons == ("length",)


def test_n_greedy_answers_are_one_answer_n_times(make):
    model = make()
    one, three = (model.complete(ASKED, max_tokens=5, n=n) for n in (1, 3))
    assert three.texts == one.texts * 3
    assert three.logprobs == one.logprobs * 3
    assert three.finish_reasons == one.finish_reasons * 3
    assert three.completion_tokens == 3 * one.completion_tokens


def test_n_sampled_answers_differ_and_belong_to_their_conversations(make):
    model = make()
    batch = model.complete_batch([ASKED, LONGER], max_tokens=12, temperature=1.5, n=4)
    assert [len(set(c.texts)) for c in batch] == [4, 4]
    assert [c.prompt_tokens for c in batch] == [4, 9]
    assert [len(c.logprobs) for c in batch] == [4, 4]


def test_a_seed_repeats_what_is_sampled_and_another_does_not(make):
    def sampled(seed):
        model = make(seed=seed)
        return [model.complete(ASKED, max_tokens=12, temperature=1.5).texts for _ in range(2)]

    first = sampled(7)
    assert first[0] != first[1]
    assert sampled(7) == first
    assert sampled(8) != first


# time -----------------------------------------------------------------------------------------------------------


def test_only_rows_that_did_not_end_by_themselves_end_with_the_timeout(make):
    model = make(clock=Steps())
    tokenizer, weights = model._load()
    free = make().complete_batch([ASKED, LONGER], max_tokens=9)
    words = [tokenizer.convert_tokens_to_ids(c.texts[0].split()) for c in free]
    stop = next(word for word in words[0][:3] if word not in words[1])  # which the first answer says and the second not
    tokenizer.eos_token_id = weights.generation_config.eos_token_id = stop
    answers = model.complete_batch([ASKED, LONGER], max_tokens=1000, timeout=8)
    assert [c.finish_reasons for c in answers] == [("stop",), ("timeout",)]
    assert answers[0].completion_tokens == words[0].index(stop)
    assert answers[1].texts[0].split() == free[1].texts[0].split()[: answers[1].completion_tokens]
    assert 3 <= answers[1].completion_tokens <= 8


def test_an_answer_of_full_length_is_not_cut_by_a_timeout_that_comes_with_it(make):
    model = make(clock=Steps())
    assert model.complete(ASKED, max_tokens=3, timeout=4).finish_reasons == ("length",)


def test_weights_that_are_loaded_too_late_fail_the_first_call_only(make):
    clock = Steps()
    model = make(clock=clock)
    load, waited = model._load, iter([100, 0])
    model._load = lambda: ([clock() for _ in range(next(waited))], load())[1]
    with pytest.raises(ModelFailed, match=r"was still loading after 50 s; call load\(\) before the first call"):
        model.complete(ASKED, max_tokens=3, timeout=50)
    assert model.complete(ASKED, max_tokens=3, timeout=50).completion_tokens <= 3


def test_weights_can_be_loaded_before_the_first_call(make, tmp_path):
    model = make()
    model.load()
    loaded = model._loaded
    assert model.complete(ASKED, max_tokens=3).texts
    model.load()
    assert model._loaded is loaded
    with pytest.raises(ConfigurationError, match="cannot be loaded"):
        HuggingFaceModel(tmp_path, device="cpu").load()


def test_the_wait_for_a_turn_counts(make):
    model = make()
    model._load()
    with model._lock:
        begun = time.monotonic()
        for call in (lambda: model.complete(ASKED, max_tokens=3, timeout=0.1),
                     lambda: list(model.stream(ASKED, max_tokens=3, timeout=0.1))):  # fmt: skip
            with pytest.raises(ModelFailed, match="was busy with other calls for 0.1 s"):
                call()
        assert 0.2 <= time.monotonic() - begun < 5
    assert model.complete(ASKED, max_tokens=3, timeout=float("inf")).texts


# streams --------------------------------------------------------------------------------------------------------


def streamed(stream):
    """The pieces of a stream, and what it returned."""
    pieces = []
    while True:
        try:
            pieces.append(next(stream))
        except StopIteration as end:
            return pieces, end.value


def test_a_stream_says_what_a_whole_answer_says(make):
    model = make()
    whole = model.complete(ASKED, max_tokens=9)
    pieces, completion = streamed(model.stream(ASKED, max_tokens=9))
    assert len(pieces) > 3
    assert "".join(pieces) == whole.texts[0] == completion.texts[0]
    assert (completion.logprobs, completion.finish_reasons) == (whole.logprobs, ("length",))


def test_a_stream_has_a_timeout(make):
    _, completion = streamed(make(clock=Steps()).stream(ASKED, max_tokens=1000, timeout=9))
    assert completion.finish_reasons == ("timeout",)
    assert 3 <= completion.completion_tokens < 10


def test_a_reader_that_pauses_holds_up_nobody(make):
    model = make()
    stream = model.stream(ASKED, max_tokens=9)
    first = next(stream)
    assert model.complete(LONGER, max_tokens=3, timeout=30).completion_tokens == 3
    rest, _ = streamed(stream)
    assert "".join([first, *rest]) == model.complete(ASKED, max_tokens=9).texts[0]


def test_a_reader_that_leaves_ends_the_generation(make):
    model = make()
    tokenizer, weights = model._load()
    written, ended = [], threading.Event()
    generate = weights.generate

    def counted(**arguments):
        try:
            made = generate(**arguments)
            written.append(made.sequences.shape[1])
            return made
        finally:
            ended.set()

    weights.generate = counted
    stream = model.stream(ASKED, max_tokens=3000)
    next(stream)
    stream.close()
    assert ended.wait(30)
    assert written[0] < 3000


def test_a_generation_that_fails_says_so_and_frees_the_model(make):
    model = make()
    tokenizer, weights = model._load()

    def broken(**_):
        raise RuntimeError("out of memory")

    weights.generate = broken
    for _ in range(2):
        with pytest.raises(ModelFailed, match="gave no answer: RuntimeError: out of memory"):
            list(model.stream(ASKED, max_tokens=3))
        with pytest.raises(ModelFailed, match="gave no answer: RuntimeError: out of memory"):
            model.complete(ASKED, max_tokens=3)
    assert not model._lock.locked()


def test_a_call_of_a_model_without_a_chat_template_fails(tmp_path):
    model = HuggingFaceModel(write_tiny_model(tmp_path, template=None), device="cpu")
    for call in (
        lambda: model.complete(ASKED, max_tokens=3),
        lambda: model.complete_batch([ASKED], max_tokens=3),
        lambda: list(model.stream(ASKED, max_tokens=3)),
    ):
        with pytest.raises(ModelFailed, match="has no chat template"):
            call()
    with pytest.raises(ConfigurationError, match="has no chat template"):
        model.load()


def test_a_call_of_a_model_that_is_missing_fails(tmp_path):
    with pytest.raises(ModelFailed, match="cannot be loaded"):
        HuggingFaceModel(tmp_path, device="cpu").complete(ASKED, max_tokens=3)
