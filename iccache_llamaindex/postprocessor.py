"""`ICCachePostprocessor`: adds past answers as examples to the retrieved documents of a query.

It never fails the query or delays it beyond the deadline: an exception is counted (`counters`), and the nodes are
returned unchanged.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, Literal, TypeGuard, Unpack

from llama_index.core.callbacks import CallbackManager
from llama_index.core.postprocessor.types import BaseNodePostprocessor
from llama_index.core.schema import MetadataMode, NodeWithScore, QueryBundle, TextNode
from pydantic import PrivateAttr

from iccache_llamaindex import question
from iccache_llamaindex.handover import Chooser, Handover, current
from iccache_llamaindex.rerank import by_support
from iccache_llamaindex.source_nodes import ROLE, clean_sources, is_example
from shared_core.adapters.factory import DEFAULT_STORE, example_engine
from shared_core.adapters.lifecycle import EngineOwner
from shared_core.adapters.options import EngineOptions, read_options
from shared_core.adapters.signatures import with_options
from shared_core.engine import Engine
from shared_core.errors import ConfigurationError
from shared_core.prompt import as_text
from shared_core.settings import Settings
from shared_core.store.address import StoreLike, located, masked, unmasked
from shared_core.values import Decision

NOTHING_FOUND: Final = "No documents were found for this question."
_SHARED: Final = "(an open store)"  # the serialised form of a store that has no URL


class PostprocessorOptions(EngineOptions, total=False):
    """`EngineOptions`, and the fields of LlamaIndex's `BaseNodePostprocessor`.

    Attributes:
        callback_manager: LlamaIndex's observers of this postprocessor.
    """

    callback_manager: CallbackManager


class ICCachePostprocessor(EngineOwner, BaseNodePostprocessor):
    """Adds examples from the pool to the retrieved documents, reranks the documents by past answers, or both.

    ```python
    engine = index.as_query_engine(llm=llm, node_postprocessors=[ICCachePostprocessor("sqlite:///iccache.db")])
    ```

    `to_dict` and pickle hold the configuration; `from_dict` opens the store again. Passwords, functions and shared
    engines are not written; pass them again: ``from_dict(data, store=…, embedder=…)``.

    Put it last, because later postprocessors treat its node like a document. If no document is found but examples are,
    the engine still calls the model.

    Args:
        store: A URL (``sqlite:///…``, ``redis://…``, ``memory://``), the path of a SQLite file, or an open store; by default
            ``sqlite:///iccache.db``.
        mode: ``"examples"`` adds examples. ``"rerank"`` moves documents to the front that past answers were based on.
            ``"both"`` does both.
        show: Where examples appear. ``"nodes"``: in one fenced node after the documents, which works with every
            engine. ``"turns"``: in the engine's prompt, which must be a `few_shot_prompt`. Small models learn more from
            turns, and the model can then cite only documents.
        keep_sources: Keep the examples' node in ``response.source_nodes``, marked by the metadata
            ``iccache_role="example"``.
        settings: See `EngineOptions`.
        options: See `EngineOptions`, and fields of LlamaIndex's `BaseNodePostprocessor`. With `strict_scope`, queries
            without a scope get no examples. The default `task` is that of a call without a system message.
    """

    store: str = DEFAULT_STORE
    mode: Literal["examples", "rerank", "both"] = "examples"
    show: Literal["nodes", "turns"] = "nodes"
    keep_sources: bool = False
    scope: str | None = None
    strict_scope: bool = False
    task: str | None = None
    settings: Settings | None = None

    _chooser: Chooser = PrivateAttr()
    _owns_engine: bool = PrivateAttr(default=True)

    @with_options(PostprocessorOptions, BaseNodePostprocessor.model_fields)
    def __init__(
        self,
        store: StoreLike | None = None,
        *,
        mode: Literal["examples", "rerank", "both"] = "examples",
        show: Literal["nodes", "turns"] = "nodes",
        keep_sources: bool = False,
        **options: Unpack[PostprocessorOptions],
    ) -> None:
        if isinstance(written := options.get("settings"), Mapping):  # as `to_dict` writes it
            options["settings"] = Settings(**written)
        if store == _SHARED and options.get("engine") is None:
            raise ConfigurationError(
                "the serialised ICCachePostprocessor has no store URL; pass from_dict(data, store=…) or engine=…"
            )
        if store == _SHARED:  # the given engine brings its own settings
            store = options["settings"] = None
        given = read_options(options, EngineOptions)
        store = None if store is None else located(store)
        settings = given.engine.get("settings")
        address = DEFAULT_STORE if store is None else unmasked(store) if isinstance(store, str) else _SHARED
        super().__init__(
            store=masked(address) if given.owns_engine else _SHARED,
            settings=settings,
            mode=mode,
            show=show,
            keep_sources=keep_sources,
            scope=given.scope,
            strict_scope=given.strict_scope,
            task=given.task,
            **given.base,
        )
        self._owns_engine = given.owns_engine
        self._chooser = Chooser.of(example_engine(store, given), self.scope, self.strict_scope, self.task)
        question.install(clean_sources())

    @classmethod
    def class_name(cls) -> str:
        """The name in LlamaIndex's serialised forms."""
        return "ICCachePostprocessor"

    @property
    def engine(self) -> Engine:
        """The engine, to share with other surfaces: `warm`, `add_examples`, `flush`, `maintain`."""
        return self._chooser.engine

    @property
    def chooser(self) -> Chooser:
        """Chooses examples for questions that bypass the retriever."""
        return self._chooser

    # what LlamaIndex calls ------------------------------------------------------------------------------------

    def _postprocess_nodes(
        self, nodes: list[NodeWithScore], query_bundle: QueryBundle | None = None
    ) -> list[NodeWithScore]:
        decision = self._chooser.choose(query_bundle.query_str) if _has_question(query_bundle) else None
        return self._handed_over(nodes, query_bundle, decision)

    async def _apostprocess_nodes(
        self, nodes: list[NodeWithScore], query_bundle: QueryBundle | None = None
    ) -> list[NodeWithScore]:
        decision = await self._chooser.achoose(query_bundle.query_str) if _has_question(query_bundle) else None
        return self._handed_over(nodes, query_bundle, decision)

    # serialisation and copies ---------------------------------------------------------------------------------

    def __reduce__(self) -> tuple[Callable[..., ICCachePostprocessor], tuple[dict[str, Any]]]:
        """Pickles the configuration; the copy opens the store again."""
        return type(self).from_dict, (self.to_dict(),)

    # private --------------------------------------------------------------------------------------------------

    def _handed_over(
        self, nodes: list[NodeWithScore], query: QueryBundle | None, decision: Decision | None
    ) -> list[NodeWithScore]:
        """The nodes to return; the choice is handed over to the prompt and the event handler. Never raises."""
        ordered, handover = nodes, None
        if query is not None and decision is not None:
            try:
                ordered, handover = self._prepared(nodes, query.query_str, decision)
            except Exception as error:  # noqa: BLE001 - fail open, counted
                self.engine.failed("postprocess", error)
        current.set(handover)
        return ordered

    def _prepared(
        self, nodes: list[NodeWithScore], question: str, decision: Decision
    ) -> tuple[list[NodeWithScore], Handover]:
        ordered = self._ordered(nodes, decision)
        documents = frozenset(node.node.node_id for node in nodes)
        handover = Handover(self._chooser, question, decision, documents=documents)
        if decision.given and self.mode != "rerank":
            self._show(ordered, handover)
        return ordered, handover

    def _ordered(self, nodes: Sequence[NodeWithScore], decision: Decision) -> list[NodeWithScore]:
        if self.mode == "examples" or not decision.given:
            return list(nodes)
        texts = [node.node.get_content(MetadataMode.NONE) for node in nodes]
        return [nodes[i] for i in by_support(texts, decision.given)]

    def _show(self, nodes: list[NodeWithScore], handover: Handover) -> None:
        """Add the node that makes LlamaIndex call the model; changes `nodes`."""
        if self.show == "nodes":
            nodes.append(example_node(handover.decision, as_text(handover.decision.given)))
            handover.shown = True
        else:
            handover.by_prompt = True
            if not nodes:  # without nodes, a synthesizer answers "Empty Response" without calling the model
                nodes.append(example_node(handover.decision, NOTHING_FOUND))
        if not self.keep_sources:
            handover.returned_nodes = nodes


def _has_question(query: QueryBundle | None) -> TypeGuard[QueryBundle]:
    return query is not None and bool(query.query_str.strip())


def example_node(decision: Decision, text: str) -> NodeWithScore:
    """A node with the examples' text and ids; its metadata is hidden from the model and the embedder."""
    metadata = {
        ROLE: "example",
        "iccache_decision_id": decision.id,
        "iccache_example_ids": [example.id for example in decision.given],
    }
    hidden = list(metadata)
    node = TextNode(
        text=text, metadata=metadata, excluded_llm_metadata_keys=hidden, excluded_embed_metadata_keys=hidden
    )
    return NodeWithScore(node=node, score=max(example.similarity for example in decision.given))


def without_examples(nodes: Sequence[NodeWithScore]) -> list[NodeWithScore]:
    """The documents among these nodes."""
    return [node for node in nodes if not is_example(node)]
