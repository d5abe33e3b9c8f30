"""`ICCache`: a cache for LangChain's `set_llm_cache`, for chains that stay unchanged.

An identical call gets the stored answer. Answers of the large model also become examples, for other surfaces or for the
small model of `answer_with`. A failure never fails the user's call: the exception is counted (`ICCache.counters`), and
the call goes on as if there were no cache. Only `clear` and `record_feedback` raise.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Final, TypedDict, Unpack

from langchain_core.caches import BaseCache
from langchain_core.language_models import BaseChatModel
from langchain_core.language_models.llms import BaseLLM
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.messages.ai import UsageMetadata
from langchain_core.outputs import ChatGeneration, Generation

from iccache_langchain.arms import ArmModel, model_name
from iccache_langchain.calls import FREE, SCOPE_ADVICE, QueryFunction, call_context
from iccache_langchain.feedback import Rateable
from iccache_langchain.generations import CannotBeRead, CannotBeStored, decode, encode
from iccache_langchain.llm_string import CallKey, parse, read_messages
from iccache_langchain.messages import normalised, outcome_of
from iccache_langchain.near_tier import THRESHOLD, NearTier, is_answering, near_settings
from shared_core.adapters.arguments import check_query_fn, check_text
from shared_core.adapters.context import Context
from shared_core.adapters.factory import example_engine, new_engine
from shared_core.adapters.lifecycle import EngineOwner
from shared_core.adapters.options import EngineOptions, ParsedOptions, read_options
from shared_core.adapters.provenance import PROVENANCE, is_trusted
from shared_core.adapters.requests import Requests
from shared_core.adapters.signatures import with_options
from shared_core.adapters.threads import off_loop
from shared_core.engine import Engine
from shared_core.errors import ConfigurationError, DependencyIsSlow, kind_of
from shared_core.settings import Settings
from shared_core.store.address import StoreLike
from shared_core.values import Arm, Hit, Message, Outcome, Request

# Where providers put token counts in `response_metadata`. A hit removes them, because it uses no tokens.
_USAGE_KEYS: Final = ("token_usage", "usage")


@dataclass(frozen=True, slots=True)
class _ParsedCall:
    """One call, parsed from LangChain's two strings. `messages` is None for a completion prompt."""

    call: CallKey
    messages: Sequence[BaseMessage] | None
    request: Request


@dataclass(frozen=True, slots=True)
class _Observed:
    """An answer that LangChain passes to the cache, converted for the engine."""

    outcome: Outcome
    admit: bool
    router_decision_id: str
    messages: Sequence[AIMessage]

    @property
    def options(self) -> _ObserveOptions:
        """Keyword arguments of `Engine.observe`."""
        return {"admit": self.admit, "router_decision_id": self.router_decision_id}


class _ObserveOptions(TypedDict):
    admit: bool
    router_decision_id: str


class ICCache(Rateable, BaseCache):
    """A LangChain cache that also collects examples.

    ```python
    set_llm_cache(ICCache("sqlite:///iccache.db"))  # identical calls
    set_llm_cache(ICCache("sqlite:///iccache.db", reference="qwen2.5-32b"))  # and examples of that model's answers
    ```

    Args:
        store: A URL (``sqlite:///…``, ``redis://…``, ``memory://``), the path of a SQLite file, or an open store; required without `engine`.
        query_fn: Condenses a conversation (LangChain messages) into the text that is embedded; later turns may then
            become examples. If it fails, there are no examples.
        reference: The model whose answers may become examples, as its LangChain class names it; by default every model
            that gives its name. `answer_with` never counts as one.
        answer_with: A small model that answers requests similar to past ones, with those as examples. Its answers are
            returned in place of the large model's; ``response_metadata["iccache"]`` names the writer.
        threshold: Required similarity, in [0, 1], as a quantile: an example must be more similar than this share of the
            pool's random pairs. By default 0.999, because then requests of another kind almost never count as similar.
            Only with `answer_with`.
        options: See `EngineOptions`. Without `embedder`, `reference` and `answer_with`, only identical calls are
            answered and no examples are stored. LangChain passes a cache the config of a chain, agent or graph, but not
            that of a direct ``llm.invoke(text, config)``: set its scope by `iccache_context`. With `strict_scope`,
            calls without a scope bypass the cache; set it if several tenants share the cache. A call that `redact`
            changes is not stored for identical calls.
    """

    engine: Engine

    @with_options(EngineOptions)
    def __init__(
        self,
        store: StoreLike | None = None,
        *,
        query_fn: QueryFunction | None = None,
        reference: str | None = None,
        answer_with: ArmModel | None = None,
        threshold: float | None = None,
        **options: Unpack[EngineOptions],
    ) -> None:
        given = read_options(options, EngineOptions)
        check_query_fn(query_fn)
        check_text("reference", reference, "the name of a model")
        if store is None and given.owns_engine:
            raise ConfigurationError("ICCache needs a store, e.g. ICCache('sqlite:///iccache.db'), or a shared engine=")
        if answer_with is not None and not given.owns_engine:
            raise ConfigurationError(
                "answer_with= cannot be combined with engine=, which has its own models; pass only one"
            )
        if threshold is not None and answer_with is None:
            raise ConfigurationError("threshold= has no effect without answer_with=; pass both, or leave it out")
        if isinstance(answer_with, EngineOwner):
            raise ConfigurationError(f"answer_with is {kind_of(answer_with)}, which routes by itself; pass a model")
        if answer_with is not None and not isinstance(answer_with, BaseChatModel | BaseLLM):
            raise ConfigurationError(
                f"answer_with is {kind_of(answer_with)}; pass a LangChain chat or completion model"
            )
        self._reference = reference
        self._small = model_name(answer_with) if answer_with is not None else ""
        self._owns_engine = given.owns_engine
        self._collects = (
            bool(reference) or answer_with is not None or bool(given.engine.keys() & {"engine", "embedder"})
        )
        self.engine = self._engine(store, given, THRESHOLD if threshold is None else threshold)
        self._requests = Requests(
            normalised,
            self.engine.failures,
            given.scope,
            given.strict_scope,
            given.task,
            query_fn,
            free=FREE,
            scope_advice=SCOPE_ADVICE,
        )
        self._texts = Requests(
            _turn_of_text, self.engine.failures, given.scope, given.strict_scope, given.task, scope_advice=SCOPE_ADVICE
        )
        self._near = NearTier(self.engine, answer_with) if answer_with is not None else None

    # LangChain's interface ------------------------------------------------------------------------------------

    def lookup(self, prompt: str, llm_string: str) -> list[Generation] | None:
        """The stored answer of an identical call, the small model's answer to a similar one, or None. Never raises."""
        if is_answering():
            return None
        with self._failing_open("lookup"):
            parsed = self._read(prompt, llm_string)
            if self._is_repeatable(parsed):
                began = time.monotonic()
                hit = self.engine.lookup(parsed.request)
                if hit:
                    return _served(hit)
                if self._near and parsed.messages and self._may_be_near(parsed, began):
                    return self._near.answer(parsed.request, parsed.messages, began)
        return None

    async def alookup(self, prompt: str, llm_string: str) -> list[Generation] | None:
        """`lookup` for event loops, with the small model's own async client."""
        if is_answering():
            return None
        with self._failing_open("lookup"):
            parsed = await self._aread(prompt, llm_string)
            if self._is_repeatable(parsed):
                began = time.monotonic()
                hit = await self.engine.alookup(parsed.request)
                if hit:
                    return _served(hit)
                if self._near and parsed.messages and self._may_be_near(parsed, began):
                    return await self._near.aanswer(parsed.request, parsed.messages, began)
        return None

    def update(self, prompt: str, llm_string: str, return_val: Sequence[Generation]) -> None:
        """Store an answer: for identical calls before this returns, as an example soon after. Never raises.

        The messages get ``response_metadata["iccache"]``, which `record_feedback` needs.
        """
        if is_answering():
            return
        with self._failing_open("update"):
            parsed = self._read(prompt, llm_string)
            if parsed.call.repeatable:
                observed = self._observed(parsed, return_val)
                _mark(
                    observed.messages,
                    self.engine.observe(parsed.request, observed.outcome, **observed.options),
                    parsed.call.writer,
                )

    async def aupdate(self, prompt: str, llm_string: str, return_val: Sequence[Generation]) -> None:
        """`update` for event loops."""
        if is_answering():
            return
        with self._failing_open("update"):
            parsed = await self._aread(prompt, llm_string)
            if parsed.call.repeatable:
                observed = self._observed(parsed, return_val)
                decision_id = await self.engine.aobserve(parsed.request, observed.outcome, **observed.options)
                _mark(observed.messages, decision_id, parsed.call.writer)

    def clear(self, **kwargs: Any) -> None:
        """Delete answers and examples of ``scope=…``, else of the current scope, else of all scopes.

        Raises:
            DependencyIsSlow: Earlier answers are still being stored; nothing was cleared.
            Exception: The store failed; some data may remain.
        """
        if not self.engine.flush():
            raise DependencyIsSlow("earlier answers are still being stored, so nothing was cleared; call clear again")
        self.engine.clear(kwargs.get("scope") or self._ambient_context().scope or self._requests.scope)

    async def aclear(self, **kwargs: Any) -> None:
        """`clear` on a thread."""
        await off_loop(lambda: self.clear(**kwargs))

    # private --------------------------------------------------------------------------------------------------

    def _engine(self, store: StoreLike | None, given: ParsedOptions, threshold: float) -> Engine:
        """An engine without arms, or with the small model as its only arm; it chooses examples, not arms."""
        if not self._owns_engine:
            return example_engine(store, given)
        assert store is not None  # noqa: S101 - for the type checker; the caller has checked
        options = dict(given.engine)
        if self._small:
            options |= {"arms": [Arm(self._small, 1.0)], "reference": self._small}
            options["settings"] = near_settings(options.get("settings") or Settings(), threshold)
        return new_engine(store, **options) if self._collects else Engine(store=store, **options)

    def _read(self, prompt: str, llm_string: str) -> _ParsedCall:
        """Parse the call.

        Raises:
            ConfigurationError: `strict_scope` is set and no scope is given.
        """
        call = parse(llm_string)
        messages = read_messages(prompt)
        context, form = self._ambient_context(), "" if call.plain else call.fingerprint
        if messages:
            request = self._requests.of_form(messages, context, form, call.fingerprint)
        else:
            request = self._texts.of_form([prompt], context, form, call.fingerprint)
        return _ParsedCall(call, messages, request)

    def _ambient_context(self) -> Context:
        """Scope and task from the chain's ``configurable`` and `iccache_context`."""
        return call_context({}, context_counts=True)

    async def _aread(self, prompt: str, llm_string: str) -> _ParsedCall:
        """`_read`; on a thread if there is a `query_fn`, which may block."""
        return (
            await off_loop(self._read, prompt, llm_string)
            if self._requests.query_fn
            else self._read(prompt, llm_string)
        )

    def _is_repeatable(self, parsed: _ParsedCall) -> bool:
        if not parsed.call.repeatable:
            self.counters.count("lookup.not_repeatable")
        return parsed.call.repeatable

    def _may_be_near(self, parsed: _ParsedCall, began: float) -> bool:
        """True if the call asks for free text, and the exact lookup has left time before the deadline."""
        return parsed.call.plain and time.monotonic() - began < self.engine.settings.deadline

    def _observed(self, parsed: _ParsedCall, generations: Sequence[Generation]) -> _Observed:
        try:
            payload = encode(generations)
        except CannotBeStored as error:
            self.engine.failed("update.unstorable", error)
            payload = None
        messages = _messages(generations)
        return _Observed(
            _outcome(generations, parsed.call.writer, payload),
            self._may_admit(parsed, generations),
            next((known for message in messages if (known := _router_decision_id(message))), ""),
            messages,
        )

    def _may_admit(self, parsed: _ParsedCall, generations: Sequence[Generation]) -> bool:
        """True if the call and the writer allow the answer to become an example."""
        if not self._collects:
            return False
        trusted = is_trusted(parsed.call.writer, self._reference, never=self._small)
        return trusted and parsed.messages is not None and parsed.call.plain and len(generations) == 1

    @contextmanager
    def _failing_open(self, where: str) -> Iterator[None]:
        """A failure inside is counted, and the call goes on as if there were no cache."""
        try:
            yield
        except CannotBeRead as error:
            self.engine.failed(f"{where}.unreadable", error)
        except Exception as error:  # noqa: BLE001 - fail open, counted
            self.engine.failed(where, error)


def _served(hit: Hit) -> list[Generation]:
    """The stored answer as new objects, with its provenance and a token usage of zero.

    Raises:
        CannotBeRead: The stored bytes are corrupt, or a newer release wrote them.
    """
    generations = decode(hit.answer.payload)
    for message in _messages(generations):
        stored = message.usage_metadata
        message.usage_metadata = UsageMetadata(input_tokens=0, output_tokens=0, total_tokens=0)
        message.response_metadata = {k: v for k, v in message.response_metadata.items() if k not in _USAGE_KEYS} | {
            PROVENANCE: {
                "decision_id": hit.decision_id,
                "tier": "exact",
                "writer": hit.answer.writer,
                "answered_at": hit.answer.created_at,
                "usage": stored,
            }
        }
    return generations


def _turn_of_text(texts: Sequence[str]) -> tuple[Message, ...]:
    """A completion prompt. Its white space matters, so it goes into `extra`, which is not folded; no query."""
    return tuple(Message("user", "", extra=text) for text in texts)


def _outcome(generations: Sequence[Generation], writer: str, payload: bytes | None) -> Outcome:
    message = next(iter(_messages(generations)), None)
    if message is None:  # a completion: stored for identical calls, never as an example
        return Outcome(generations[0].text if generations else "", finished=False, writer=writer, payload=payload)
    return replace(outcome_of(message), writer=writer, payload=payload)


def _mark(messages: Sequence[AIMessage], decision_id: str, writer: str) -> None:
    """Write the provenance into the messages; those of a router have it already."""
    for message in messages:
        message.response_metadata.setdefault(
            PROVENANCE, {"decision_id": decision_id, "tier": "model", "writer": writer}
        )


def _router_decision_id(message: AIMessage) -> str:
    """The decision id that a router has written into this answer; empty if there is none."""
    provenance = message.response_metadata.get(PROVENANCE)
    return str(provenance.get("decision_id", "")) if isinstance(provenance, Mapping) else ""


def _messages(generations: Sequence[Generation]) -> list[AIMessage]:
    chats = [generation.message for generation in generations if isinstance(generation, ChatGeneration)]
    return [message for message in chats if isinstance(message, AIMessage)]
