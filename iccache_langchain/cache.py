"""`ICCache`: IC-Cache behind LangChain's own cache interface, for chains that stay as they are.

An identical call gets the stored answer. What the large model answers also becomes an example, which other surfaces
show to a small model, or this one where `answer_with` names it. Nothing here ever fails the user's call: an exception
is counted (`ICCache.counters`) and the call goes on as if there were no cache. `clear` and `record_feedback` are asked
for, so they do raise.
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
from iccache_langchain.calls import FREE, QueryFunction, call_context
from iccache_langchain.feedback import Rateable
from iccache_langchain.generations import CannotBeRead, CannotBeStored, decode, encode
from iccache_langchain.llm_string import Call, parse, read_messages
from iccache_langchain.messages import normalised, outcome_of
from iccache_langchain.near_tier import NearTier, is_answering, near_settings
from shared_core.adapters import Context
from shared_core.adapters.factory import example_engine, ready_embedder
from shared_core.adapters.options import EngineOptions, Given, read_options
from shared_core.adapters.provenance import PROVENANCE, is_trusted
from shared_core.adapters.requests import Requests
from shared_core.adapters.threads import off_loop
from shared_core.engine import Engine
from shared_core.errors import ConfigurationError, DependencyIsSlow
from shared_core.settings import read_settings
from shared_core.store.protocol import Store
from shared_core.values import Arm, Hit, Message, Outcome, Request

# Where providers put token counts beside `usage_metadata`; a hit cost none of them.
_USAGE_KEYS: Final = ("token_usage", "usage")


@dataclass(frozen=True, slots=True)
class _ParsedCall:
    """One call, as LangChain's two strings tell it. `messages` is None for a prompt that is not a chat's."""

    call: Call
    messages: Sequence[BaseMessage] | None
    request: Request


@dataclass(frozen=True, slots=True)
class _Observed:
    """An answer that LangChain hands to the cache, as the engine takes it."""

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
        store: A URL (``sqlite:///iccache.db``, ``redis://…``, ``memory://``) or an open store.
        query_fn: Condenses a conversation into the text that is embedded; later turns may then become examples.
        reference: The model whose answers may become examples, named as its LangChain class names it. By default
            those of every model whose name can be read, but `answer_with`'s.
        answer_with: A small model that answers requests near to past ones itself, shown their answers as examples.
            Its answers are returned as if the large model had given them; ``response_metadata["iccache"]`` says so.
        threshold: How near is near, in [0, 1]: the share of the pool's own random pairs that an example must be more
            similar than. Only with `answer_with`.
        options: See `EngineOptions`. Without `embedder` (and without `reference` and `answer_with`, which bring the
            default) only identical calls are answered, and no example is kept. LangChain shows a cache the config of a
            chain, an agent or a graph, and not that of a direct ``llm.invoke(text, config)``: name the scope of such a
            call with `iccache_context`. `strict_scope` leaves calls alone that name no scope: set it where several
            tenants share a cache. What `redact` changes is not kept word for word.
    """

    engine: Engine

    def __init__(
        self,
        store: Store | str | None = None,
        *,
        query_fn: QueryFunction | None = None,
        reference: str | None = None,
        answer_with: ArmModel | None = None,
        threshold: float = 0.999,
        **options: Unpack[EngineOptions],
    ) -> None:
        given = read_options(options, EngineOptions, "ICCache")
        if store is None and "engine" not in given.engine:
            raise ConfigurationError("ICCache needs a store, such as 'sqlite:///iccache.db', or an engine to share")
        if answer_with is not None and "engine" in given.engine:
            raise ConfigurationError("a shared engine has its own models; leave out answer_with, or leave out engine=")
        if answer_with is not None and not isinstance(answer_with, BaseChatModel | BaseLLM):
            raise ConfigurationError(f"answer_with is a {type(answer_with).__name__}, not a chat or completion model")
        self._reference = reference
        self._small = model_name(answer_with) if answer_with is not None else ""
        self._owns_engine = "engine" not in given.engine
        self._collects = (
            bool(reference) or answer_with is not None or bool(given.engine.keys() & {"engine", "embedder"})
        )
        self.engine = self._engine(store, given, threshold)
        self._requests = Requests(
            normalised, self.counters, given.scope, given.strict_scope, given.task, query_fn, free=FREE
        )
        self._texts = Requests(_turn_of_text, self.counters, given.scope, given.strict_scope, given.task)
        self._near = NearTier(self.engine, answer_with) if answer_with is not None else None

    # LangChain's interface ------------------------------------------------------------------------------------

    def lookup(self, prompt: str, llm_string: str) -> list[Generation] | None:
        """The stored answer of an identical call, or a near answer, or None. Never raises."""
        if is_answering():
            return None
        with self._failing_open("lookup"):
            began, parsed = time.monotonic(), self._read(prompt, llm_string)
            if self._is_repeatable(parsed):
                hit = self.engine.lookup(parsed.request)
                if hit:
                    return _served(hit)
                if self._near and parsed.messages and self._may_be_near(parsed, began):
                    return self._near.answer(parsed.request, parsed.messages)
        return None

    async def alookup(self, prompt: str, llm_string: str) -> list[Generation] | None:
        """`lookup` for event loops, with the small model's own async client."""
        if is_answering():
            return None
        with self._failing_open("lookup"):
            began, parsed = time.monotonic(), await self._aread(prompt, llm_string)
            if self._is_repeatable(parsed):
                hit = await self.engine.alookup(parsed.request)
                if hit:
                    return _served(hit)
                if self._near and parsed.messages and self._may_be_near(parsed, began):
                    return await self._near.aanswer(parsed.request, parsed.messages)
        return None

    def update(self, prompt: str, llm_string: str, return_val: Sequence[Generation]) -> None:
        """Keep an answer: word for word before this returns, as an example soon after. Never raises.

        The messages get ``response_metadata["iccache"]``, so that the answer can be rated.
        """
        if is_answering():
            return
        with self._failing_open("update"):
            parsed = self._read(prompt, llm_string)
            if parsed.call.repeatable:
                seen = self._observed(parsed, return_val)
                _mark(
                    seen.messages, self.engine.observe(parsed.request, seen.outcome, **seen.options), parsed.call.writer
                )

    async def aupdate(self, prompt: str, llm_string: str, return_val: Sequence[Generation]) -> None:
        """`update` for event loops."""
        if is_answering():
            return
        with self._failing_open("update"):
            parsed = await self._aread(prompt, llm_string)
            if parsed.call.repeatable:
                seen = self._observed(parsed, return_val)
                decision_id = await self.engine.aobserve(parsed.request, seen.outcome, **seen.options)
                _mark(seen.messages, decision_id, parsed.call.writer)

    def clear(self, **kwargs: Any) -> None:
        """Forget the answers and examples of ``scope=…``, or of the scope in force, or of all if there is neither.

        Raises:
            DependencyIsSlow: Answers that wait to be stored could not be stored first; nothing was cleared.
            Exception: The store failed; what it still holds is unknown.
        """
        if not self.engine.flush():
            raise DependencyIsSlow("answers given earlier are still being stored, so they cannot be cleared; try again")
        self.engine.clear(kwargs.get("scope") or self._ambient_context().scope or self._requests.scope)

    async def aclear(self, **kwargs: Any) -> None:
        """`clear` on a thread."""
        await off_loop(lambda: self.clear(**kwargs))

    # private --------------------------------------------------------------------------------------------------

    def _engine(self, store: Store | str | None, given: Given, threshold: float) -> Engine:
        """An engine without arms, or with the small model as its only one: then examples are all that it decides on."""
        if not self._owns_engine:
            return example_engine(store, given)
        options = dict(given.engine)
        embedder = options.pop("embedder", None)
        options["embedder"] = ready_embedder(embedder) if self._collects else None
        options["settings"] = settings = options.get("settings") or read_settings()
        if self._small:
            options |= {"arms": [Arm(self._small, 1.0)], "reference": self._small}
            options["settings"] = near_settings(settings, threshold)
        return Engine(store=store or "", **options)

    def _read(self, prompt: str, llm_string: str) -> _ParsedCall:
        """Whose call this is and what makes it itself.

        Raises:
            ConfigurationError: `strict_scope` is set and nobody named a scope.
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
        """What the chain's ``configurable`` and `iccache_context` say."""
        return call_context({}, context_counts=True)

    async def _aread(self, prompt: str, llm_string: str) -> _ParsedCall:
        """`_read`; on a thread where it calls the user's `query_fn`, which may block."""
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
        """True if the call asks for free text, and the exact tier has not used up the deadline."""
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
        """True if the answer may become an example, as far as the call and its writer are concerned."""
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
    """The stored answer, new objects each time, which says where it comes from and counts no tokens again.

    Raises:
        CannotBeRead: The stored bytes are corrupt, or of a later version.
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
    """A completion's prompt. White space is part of what it continues: `extra` is not folded, and the query is empty."""
    return tuple(Message("user", "", extra=text) for text in texts)


def _outcome(generations: Sequence[Generation], writer: str, payload: bytes | None) -> Outcome:
    message = next(iter(_messages(generations)), None)
    if message is None:  # a completion: kept word for word, never an example
        return Outcome(generations[0].text if generations else "", finished=False, writer=writer, payload=payload)
    return replace(outcome_of(message), writer=writer, payload=payload)


def _mark(messages: Sequence[AIMessage], decision_id: str, writer: str) -> None:
    """Say how answers came about, so that they can be rated; those of a router say so already."""
    for message in messages:
        message.response_metadata.setdefault(
            PROVENANCE, {"decision_id": decision_id, "tier": "model", "writer": writer}
        )


def _router_decision_id(message: AIMessage) -> str:
    """The decision that this answer names already, because a router gave it; empty if it names none."""
    provenance = message.response_metadata.get(PROVENANCE)
    return str(provenance.get("decision_id", "")) if isinstance(provenance, Mapping) else ""


def _messages(generations: Sequence[Generation]) -> list[AIMessage]:
    chats = [generation.message for generation in generations if isinstance(generation, ChatGeneration)]
    return [message for message in chats if isinstance(message, AIMessage)]
