"""Do retrieved documents and past answers help together? A small model in a LlamaIndex query engine (paper: Fig. 15).

NL2Bash requests over the GNU manuals, token F1, the same held-out requests and pool of reference answers as in
benchmarks/offload.py. Every arm is a `RetrieverQueryEngine` over the same index. Every answer comes from a live model
behind `OpenAILike`. Answers are recorded as hash → output, so the table can be recomputed without a model:

    python -m benchmarks.rag                                              # from the recordings
    python -m benchmarks.rag --live qwen-coder-0.5b=http://127.0.0.1:8102/v1          # fills what is missing

The first run embeds the manuals and the pool, which takes minutes; the vectors stay under .cache/.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from llama_index.core import Document, VectorStoreIndex
from llama_index.core.base.embeddings.base import BaseEmbedding
from llama_index.core.base.llms.types import ChatMessage, ChatResponse, MessageRole
from llama_index.core.node_parser import SentenceSplitter
from llama_index.core.prompts import ChatPromptTemplate
from llama_index.core.query_engine import BaseQueryEngine
from llama_index.core.response_synthesizers import ResponseMode
from llama_index.llms.openai_like import OpenAILike
from numpy.typing import NDArray
from pydantic import PrivateAttr
from rich.progress import track

from benchmarks.embedding import Embeddings
from benchmarks.manuals import Section, sections
from benchmarks.offload import LARGE
from benchmarks.recording import Recorded, Recordings, call_key
from benchmarks.report import write_result
from benchmarks.statistics import paired_difference, share
from benchmarks.tasks import SEED, Task, nl2bash
from iccache_llamaindex import ICCachePostprocessor, few_shot_prompt
from shared_core.inference import Embedder

SMALL = "qwen-coder-0.5b"
CHUNK = 200  # tokens, MiniLM reads 256
DOCUMENTS = 2  # chunks in a prompt
CONTEXT = 4096  # tokens
EXAMPLES = 5
SCOPE = "nl2bash"
RAG, ICCACHE, BOTH = "RAG", "IC-Cache", "both"

# Settled before any of the table's requests was asked. The documents stand in the system message, so that an example's
# turns and the request's turn look alike.
ALONE = "{system}"
WITH_DOCUMENTS = "{system}\n\nExcerpts from the manuals:\n\n{{context_str}}"


NOTES = (
    "documents: the Info manuals of find, coreutils, grep, sed, diffutils and gzip (benchmarks/manuals.py), in pieces of "
    f"at most {CHUNK} tokens, the {DOCUMENTS} nearest to the request by MiniLM in the system message; examples: the "
    f"{EXAMPLES} that IC-Cache chooses, as turns after it. Prompts were settled before any of these requests was asked, "
    "after a look at 23 later held-out ones, with three pieces: examples alone 0.507, both 0.518"
)


class RecordedLLM(OpenAILike):
    """A greedy OpenAI-compatible model that answers from recordings, and asks its server for what is missing."""

    _recordings: Recordings = PrivateAttr()
    _served: bool = PrivateAttr()
    _last: Recorded | None = PrivateAttr(default=None)

    def __init__(self, model: str, max_tokens: int, recordings: Recordings, url: str | None) -> None:
        super().__init__(
            model=model,
            api_base=url or "http://unserved.invalid/v1",
            api_key="none",
            is_chat_model=True,
            context_window=CONTEXT,
            temperature=0.0,
            max_tokens=max_tokens,
            timeout=600,
        )
        self._recordings = recordings
        self._served = url is not None

    @property
    def last(self) -> Recorded:
        """The latest call."""
        if self._last is None:
            raise RuntimeError(f"{self.model} was not asked")
        return self._last

    def chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponse:
        plain = [{"role": m.role.value, "content": m.content or ""} for m in messages]
        key = call_key(self.model, plain, self.max_tokens)
        call = self._recordings.get(key)
        if call is None:
            call = self._live(messages, **kwargs)
            self._recordings.add(key, call)
        self._last = call
        return ChatResponse(message=ChatMessage(call.output, role=MessageRole.ASSISTANT))

    def _live(self, messages: Sequence[ChatMessage], **kwargs: Any) -> Recorded:
        if not self._served:
            raise SystemExit(f"no recording of a call to {self.model}; start it and pass --live {self.model}=URL")
        begun = time.perf_counter()
        reply = super().chat(messages, **kwargs)
        seconds = round(time.perf_counter() - begun, 3)
        usage = reply.raw.usage
        return Recorded(reply.message.content or "", usage.prompt_tokens, usage.completion_tokens, seconds)


class MiniLM(BaseEmbedding):
    """The packaged MiniLM for LlamaIndex."""

    _embeddings: Embedder = PrivateAttr()

    def __init__(self, embeddings: Embedder) -> None:
        super().__init__(model_name=embeddings.tag, embed_batch_size=2048)
        self._embeddings = embeddings

    def _get_text_embeddings(self, texts: list[str]) -> list[list[float]]:
        return self._embeddings.embed(texts).tolist()

    def _get_text_embedding(self, text: str) -> list[float]:
        return self._get_text_embeddings([text])[0]

    def _get_query_embedding(self, query: str) -> list[float]:
        return self._get_text_embedding(query)

    async def _aget_query_embedding(self, query: str) -> list[float]:
        return self._get_query_embedding(query)


def index_of(manuals: Sequence[Section], embeddings: Embedder) -> VectorStoreIndex:
    """The manuals, cut by LlamaIndex's own splitter, with manual and section named on every piece."""
    documents = [Document(text=s.text, metadata={"manual": s.manual, "section": s.title}) for s in manuals]
    splitter = SentenceSplitter(chunk_size=CHUNK, chunk_overlap=0)
    return VectorStoreIndex.from_documents(documents, transformations=[splitter], embed_model=MiniLM(embeddings))


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer: `quality` in [0, 1], and what it cost where it was recorded."""

    quality: float
    call: Recorded


class Bench:
    """One task over one document set. Every arm is a query engine that answers the same requests.

    Args:
        task: What is asked.
        small: The model that is helped.
        large: The model to be matched, for comparison.
        manuals: The document set.
        embeddings: Of documents, requests and examples.
    """

    def __init__(
        self,
        task: Task,
        small: RecordedLLM,
        large: RecordedLLM,
        manuals: Sequence[Section],
        embeddings: Embedder,
    ) -> None:
        self.task = task
        self.small = small
        self.large = large
        self.index = index_of(manuals, embeddings)
        self.embeddings = embeddings

    def answers(self) -> dict[str, list[Answer]]:
        """Every arm's answers. All arms answer a request before the next one comes, so that a server which keeps the
        last prompt reads the documents once."""
        engines = self._engines()
        answers: dict[str, list[Answer]] = {label: [] for label in engines}
        for item in track(self.task.requests, "requests"):
            for label, (llm, engine) in engines.items():
                output = str(engine.query(item.request))
                answers[label].append(Answer(self.task.score(output, item.answer), llm.last))
        return answers

    def _engines(self) -> dict[str, tuple[RecordedLLM, BaseQueryEngine]]:
        """Rows of the table, in order."""
        examples = self._examples()
        return {
            "large model alone": (self.large, self._engine(self.large)),
            "no help": (self.small, self._engine(self.small)),
            RAG: (self.small, self._engine(self.small, documents=True)),
            ICCACHE: (self.small, self._engine(self.small, examples)),
            BOTH: (self.small, self._engine(self.small, examples, documents=True)),
        }

    def _examples(self) -> ICCachePostprocessor:
        """Chooses from a pool of the reference answers; nothing is added to it later."""
        shows = ICCachePostprocessor(
            "memory://",
            scope=SCOPE,
            task=self.task.name,
            show="turns",
            embedder=self.embeddings,
            settings={"deadline": 60.0, "max_examples": EXAMPLES, "seed": SEED},  # the recording machine is slow
        )
        shows.engine.add_examples([(i.request, i.answer) for i in self.task.pool], scope=SCOPE, task=self.task.name)
        shows.engine.warm(SCOPE)
        shows.engine.maintain()
        return shows

    def _engine(
        self, llm: RecordedLLM, examples: ICCachePostprocessor | None = None, *, documents: bool = False
    ) -> BaseQueryEngine:
        """A query engine; without `documents`, in the mode that retrieves them and does not show them."""
        prompt = self._prompt(WITH_DOCUMENTS if documents else ALONE)
        if examples:
            prompt = few_shot_prompt(prompt, examples=examples)
        return self.index.as_query_engine(
            llm=llm,
            similarity_top_k=DOCUMENTS,
            node_postprocessors=[examples] if examples else [],
            response_mode=ResponseMode.COMPACT if documents else ResponseMode.GENERATION,
            text_qa_template=prompt,
            simple_template=prompt,
        )

    def _prompt(self, system: str) -> ChatPromptTemplate:
        system = system.format(system=self.task.system)
        return ChatPromptTemplate.from_messages([("system", system), ("user", "{query_str}")])


def row(answers: Sequence[Answer], baseline: Sequence[Answer]) -> dict[str, object]:
    """The figures of one arm."""
    quality = qualities(answers)
    return {
        "token_F1": share(quality).as_list(),
        "minus_no_help": paired_difference(quality, qualities(baseline)).as_list(),
        "prompt_tokens": round(float(np.mean([a.call.prompt_tokens for a in answers]))),
    }


def qualities(answers: Sequence[Answer]) -> NDArray[np.float64]:
    """Of shape (n,), each in [0, 1]."""
    return np.array([a.quality for a in answers])


def must_show(arms: Mapping[str, Sequence[Answer]]) -> list[dict[str, object]]:
    """Both together are not worse than either alone: the mean of the paired difference is not negative."""
    bounds = []
    for alone in (ICCACHE, RAG):
        difference = paired_difference(qualities(arms[BOTH]), qualities(arms[alone]))
        bounds.append(
            {
                "bound": f"NL2Bash: both together not below {alone} alone, mean difference at least 0",
                "measured": difference.as_text(),
                "holds": bool(difference.mean >= 0),
            }
        )
    return bounds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=200, help="requests (default 200)")
    parser.add_argument("--live", nargs="*", default=[], metavar="MODEL=URL", help="OpenAI-compatible servers to ask")
    parser.add_argument("--pack", action="store_true", help="pack the recordings into their committed form")
    parser.add_argument("--out", type=Path, help="folder of the result (default benchmarks/results)")
    options = parser.parse_args()
    servers = dict(pair.split("=", 1) for pair in options.live)
    recordings = {name: Recordings(name) for name in (SMALL, LARGE)}
    task, embeddings = nl2bash(options.requests), Embeddings()
    small, large = (RecordedLLM(name, task.max_tokens, recordings[name], servers.get(name)) for name in (SMALL, LARGE))
    arms = Bench(task, small, large, sections(), embeddings).answers()
    if options.pack:
        for recorded in recordings.values():
            recorded.pack()
    write_result(
        "rag",
        {
            "title": "Retrieved documents and past answers in one prompt",
            "seeds": [SEED],
            "n": options.requests,
            "large": LARGE,
            "notes": NOTES,
            "tables": {f"nl2bash / {SMALL}": {label: row(a, arms["no help"]) for label, a in arms.items()}},
            "must_show": must_show(arms),
        },
        options.out,
    )


if __name__ == "__main__":
    main()
