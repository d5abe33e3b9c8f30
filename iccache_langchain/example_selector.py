"""`ICCacheExampleSelector`: past answers as examples for LangChain's few-shot templates. It chooses no model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Final, Unpack

from langchain_core.example_selectors import BaseExampleSelector
from langchain_core.messages import BaseMessage
from langchain_core.messages.utils import convert_to_messages

from iccache_langchain.calls import FREE, SCOPE_ADVICE, call_context
from iccache_langchain.feedback import Rateable
from iccache_langchain.messages import normalised
from shared_core.adapters.arguments import check_text
from shared_core.adapters.factory import example_engine
from shared_core.adapters.options import EngineOptions, read_options
from shared_core.adapters.requests import Requests
from shared_core.adapters.signatures import with_options
from shared_core.adapters.threads import off_loop
from shared_core.engine import Engine
from shared_core.errors import ConfigurationError, kind_of
from shared_core.store.address import StoreLike
from shared_core.values import Decision, Request, ScoredExample

INPUT: Final = "input"
OUTPUT: Final = "output"

_collecting: ContextVar[list[str] | None] = ContextVar("iccache_collecting", default=None)


class ICCacheExampleSelector(Rateable, BaseExampleSelector):
    """Chooses past answers for a few-shot template, by similarity and by how much they have helped before.

    ```python
    selector = ICCacheExampleSelector(store="sqlite:///iccache.db", input_key="question")
    prompt = FewShotChatMessagePromptTemplate(
        example_selector=selector,
        example_prompt=ChatPromptTemplate.from_messages([("human", "{input}"), ("ai", "{output}")]),
        input_variables=["question"],
    )
    ```

    Each example is a dictionary with the keys ``input``, ``output``, ``example_id``, ``utility`` in [0, 1] and
    ``decision_id``. The most useful one comes last, next to the request. Chat template markers in their texts are
    broken up, so an example cannot pose as another turn. A failure gives no examples, and is counted in
    ``selector.engine.counters``.

    To rate the answer of a call that used examples:

    ```python
    with selector.collect() as decisions:
        answer = chain.invoke({"question": "…"})
    for decision in decisions:  # empty if there were no examples
        selector.record_feedback(decision, 1.0)
    ```

    Args:
        store: A URL (``sqlite:///…``, ``redis://…``, ``memory://``), the path of a SQLite file, or an open store; by default
            ``sqlite:///iccache.db``.
        input_key: The template variable that holds the request: a text, a message or a list of messages.
        escape_braces: True replaces ``{`` by ``{{``. `FewShotPromptTemplate` in its default f-string format needs it,
            because it formats the examples' texts again. `FewShotChatMessagePromptTemplate` does not.
        options: See `EngineOptions`. A selector does not see the rest of the prompt, so set `task` to share examples
            with another surface; the default is the task of a question without a system message.
    """

    engine: Engine

    @with_options(EngineOptions)
    def __init__(
        self,
        store: StoreLike | None = None,
        *,
        input_key: str = INPUT,
        escape_braces: bool = False,
        **options: Unpack[EngineOptions],
    ) -> None:
        given = read_options(options, EngineOptions)
        check_text("input_key", input_key, "the name of the template variable that holds the request")
        self.engine = example_engine(store, given)
        self._owns_engine = given.owns_engine
        self.input_key = input_key
        self.escape_braces = escape_braces
        self._requests = Requests(
            normalised,
            self.engine.failures,
            given.scope,
            given.strict_scope,
            given.task,
            free=FREE,
            scope_advice=SCOPE_ADVICE,
        )

    # LangChain's interface ------------------------------------------------------------------------------------

    @classmethod
    def from_examples(cls, examples: Sequence[Mapping[str, str]], **kwargs: Any) -> ICCacheExampleSelector:
        """A selector whose pool holds these examples, in addition to those in its store.

        Args:
            examples: Dictionaries with the keys ``input`` and ``output``; embedded in one batch.
            kwargs: The constructor's arguments.

        Raises:
            ConfigurationError: A key is missing, or a text is empty.
            StoreIsAway: The store cannot be reached any more, is busy or full.
        """
        selector = cls(**kwargs)
        selector.add_examples(examples)
        return selector

    @classmethod
    async def afrom_examples(cls, examples: Sequence[Mapping[str, str]], **kwargs: Any) -> ICCacheExampleSelector:
        """`from_examples` on a thread."""
        return await off_loop(lambda: cls.from_examples(examples, **kwargs))

    def add_example(self, example: Mapping[str, str]) -> str:
        """Store an example durably; returns its id. It replaces an example with the same input.

        Raises:
            ConfigurationError: ``input`` or ``output`` is missing or empty.
        """
        return self.add_examples([example])[0]

    async def aadd_example(self, example: Mapping[str, str]) -> str:
        """`add_example` on a thread."""
        return await off_loop(self.add_example, example)

    def select_examples(self, input_variables: Mapping[str, Any]) -> list[dict[str, Any]]:
        """The examples for this request, the most useful last; empty after a failure.

        Raises:
            ConfigurationError: The template has no variable `input_key`, or `strict_scope` is set without a scope.
        """
        with self._failing_open():
            return self._shown(self.engine.select(self._request(input_variables)))
        return []

    async def aselect_examples(self, input_variables: Mapping[str, Any]) -> list[dict[str, Any]]:
        """`select_examples` for event loops."""
        with self._failing_open():
            return self._shown(await self.engine.aselect(self._request(input_variables)))
        return []

    # beyond it ------------------------------------------------------------------------------------------------

    def add_examples(self, examples: Sequence[Mapping[str, str]]) -> Sequence[str]:
        """Store many examples, embedded in one batch; returns their ids in order.

        Raises:
            ConfigurationError: A key is missing, or a text is empty.
            StoreIsAway: The store cannot be reached, is busy or full; nothing is stored.
        """
        pairs = [_pair(example) for example in examples]
        scope, task = self._requests.place(call_context({}, context_counts=True))
        self.engine.warm(scope)
        return self.engine.add_examples(pairs, scope=scope, task=task)

    @contextmanager
    def collect(self) -> Iterator[list[str]]:
        """Collects the ids of the decisions that gave examples inside the block, in order.

        Includes chains, threads, tasks and batches that start inside the block; a batch gives its ids in any order.
        """
        decisions: list[str] = []
        token = _collecting.set(decisions)
        try:
            yield decisions
        finally:
            _collecting.reset(token)

    # private --------------------------------------------------------------------------------------------------

    @contextmanager
    def _failing_open(self) -> Iterator[None]:
        """Count a failure and go on without examples; raise `ConfigurationError`."""
        try:
            yield
        except ConfigurationError:
            raise
        except Exception as error:  # noqa: BLE001 - fail open, counted
            self.engine.failures.count("fallback.unreadable_call", error)

    def _request(self, input_variables: Mapping[str, Any]) -> Request:
        if self.input_key not in input_variables:
            raise ConfigurationError(
                f"input_key={self.input_key!r} is not one of the template's variables {sorted(input_variables)}; set "
                "input_key to the variable that holds the request"
            )
        value = input_variables[self.input_key]
        turns = value if isinstance(value, list | tuple) else [value if isinstance(value, BaseMessage) else str(value)]
        return self._requests.request(convert_to_messages(turns), call_context({}, context_counts=True))

    def _shown(self, decision: Decision) -> list[dict[str, Any]]:
        """The examples in the template's format; the decision is stored for feedback."""
        if decision.given:
            self.engine.submit_decision(decision)
            collected = _collecting.get()
            if collected is not None:
                collected.append(decision.id)
        return [self._example(decision, *shown) for shown in _texts(decision)]

    def _example(self, decision: Decision, chosen: ScoredExample, query: str, answer: str) -> dict[str, Any]:
        return {
            INPUT: self._escaped(query),
            OUTPUT: self._escaped(answer),
            "example_id": chosen.id,
            "utility": round(chosen.utility, 4),
            "decision_id": decision.id,
        }

    def _escaped(self, text: str) -> str:
        return text.replace("{", "{{").replace("}", "}}") if self.escape_braces else text


def _pair(example: Mapping[str, str]) -> tuple[str, str]:
    if not isinstance(example, Mapping):
        raise ConfigurationError(
            f"an example is {kind_of(example)}; pass dictionaries with the keys 'input' and 'output'"
        )
    if not {INPUT, OUTPUT} <= example.keys():
        raise ConfigurationError(f"an example needs the keys 'input' and 'output'; got {sorted(example)}")
    return example[INPUT], example[OUTPUT]


def _texts(decision: Decision) -> Iterator[tuple[ScoredExample, str, str]]:
    """Each example with its texts, in the order and wording of a conversation."""
    texts = (turn.text for turn in decision.insertion.turns)
    return zip(reversed(decision.given), texts, texts, strict=True)
