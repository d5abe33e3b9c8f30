"""Embeds the user's requests, and reports what their neighbours promise."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Final

import numpy as np
from rich.bar import Bar
from rich.console import Console, Group, RenderableType
from rich.progress import Progress
from rich.table import Table
from rich.text import Text

from shared_core.cli.neighbours import (
    BINS,
    NEAR,
    PAPER_SHARE,
    QUANTILES,
    Estimate,
    estimated,
    similarity_to_earlier,
)
from shared_core.cli.output import write_json
from shared_core.inference import Embedder
from shared_core.inference.embedders import MINILM, as_embedder, default_embedder
from shared_core.jsonl import read_jsonl
from shared_core.records import Vector

BATCH: Final = 64
READS: Final = 1_000  # characters of English in the 256 word pieces that MiniLM reads, roughly
_CHANCES: Final = (
    "This counts chances, not successes. A near neighbour can show the small model how to answer. Whether it then "
    "answers well enough depends on your models: try iccache demo --data on this file."
)
_ALIKE: Final = (
    "Many random pairs of this file look alike to the embedder, so the share near an earlier request means little. An "
    "instruction before every request does that: leave it out (--field can name what differs). So do requests of few kinds."
)


def run(file: Path, *, field: str, embedder: str | None, as_json: bool) -> None:
    """Estimate, and print.

    Raises:
        ConfigurationError: The file cannot be used, or the embedder not be loaded.
        ExtraIsMissing: sentence-transformers is not installed.
    """
    texts = [row[field] for row in read_jsonl(file, [field], (), {field: "--field"})]
    with Progress(console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty()) as progress:
        chosen = as_embedder(embedder) if embedder else default_embedder()
        vectors = _embedded(texts, chosen, progress)
        comparing = progress.add_task("comparing", total=len(texts))
        best = similarity_to_earlier(vectors, lambda n: progress.advance(comparing, n))
    result = estimated(texts, vectors, best)
    cut = sum(len(text) > READS for text in texts) if chosen.tag == MINILM else 0
    console = Console()
    if as_json:
        found: dict[str, object] = {
            "file": str(file),
            "embedder": chosen.tag,
            "near_means": NEAR,
            "quantile_levels": QUANTILES,
        }
        found |= {"looks_alike": result.looks_alike, "about_cut": cut}
        write_json(found | asdict(result))
    else:
        console.print(picture(result, chosen.tag, cut))


def _embedded(texts: Sequence[str], embedder: Embedder, progress: Progress) -> Vector:
    """Every different text once, in the order of `texts`."""
    different = list(dict.fromkeys(texts))
    task = progress.add_task("embedding", total=len(different))
    blocks = []
    for start in range(0, len(different), BATCH):
        block = different[start : start + BATCH]
        blocks.append(embedder.embed(block))
        progress.advance(task, len(block))
    row = {text: i for i, text in enumerate(different)}
    vectors: Vector = np.concatenate(blocks)[[row[text] for text in texts]]
    return vectors


def picture(result: Estimate, embedder: str, cut: int = 0) -> RenderableType:
    """What the user reads; `cut` is about how many requests are longer than the embedder reads."""
    but = (
        ", but so are many random pairs: this share means little"
        if result.looks_alike
        else ": examples for the small model"
    )
    shares = Table.grid(padding=(0, 2))
    for share, meaning in (
        (result.repeated, "asked before, word for word: the exact tier answers, no model is asked"),
        (result.near, f"near an earlier request (similarity {NEAR} or more){but}"),
        (1 - result.repeated - result.near, "far from every earlier request: the large model answers, at first"),
    ):
        shares.add_row(Text(f"{share:6.1%}", style="bold"), meaning)
    return Group(
        Text(f"{result.requests:,} requests, each compared with the earlier ones; embedder {embedder}"),
        *([Text(_ALIKE, style="bold yellow")] if result.looks_alike else []),
        *([Text(_cut(cut, result.requests))] if cut else []),
        Text(),
        shares,
        Text(),
        _histogram(result),
        Text(),
        Text(_sentences(result)),
    )


def _cut(cut: int, requests: int) -> str:
    return (
        f"About {cut:,} of {requests:,} requests are longer than it reads (256 word pieces, some {READS:,} characters): of "
        "those it sees head and tail."
    )


def _histogram(result: Estimate) -> RenderableType:
    table = Table.grid(padding=(0, 2))
    table.add_row("similarity", "new requests, by their nearest earlier request", "")
    most = max(*result.histogram, 1)
    for i, count in reversed(list(enumerate(result.histogram))):
        label = f"{i / BINS:.1f} to {(i + 1) / BINS:.1f}"
        table.add_row(label, Bar(most, 0, count, width=40, color="green" if i / BINS >= NEAR else "blue"), f"{count:,}")
    return table


def _sentences(result: Estimate) -> str:
    sentences = [
        _quantiles(result),
        _growth(result),
        _random(result),
        _CHANCES,
    ]
    return "\n".join(sentence for sentence in sentences if sentence)


def _quantiles(result: Estimate) -> str:
    levels = ", ".join(f"{q:.0%}: {v:.2f}" for q, v in zip(QUANTILES, result.quantiles, strict=False))
    return f"Quantiles of the nearest similarity: {levels or 'none: there is only one different request'}."


def _growth(result: Estimate) -> str:
    """How the known share changed; empty for fewer than three different requests."""
    first, _, last = result.known_by_third
    if result.different < 3:
        return ""
    fills = ": a pool fills" if last > first and not result.looks_alike else ""
    return f"Repeated or near were {first:.1%} of the first third of the file and {last:.1%} of the last{fills}."


def _random(result: Estimate) -> str:
    if result.random_median is None:
        return ""
    return (
        f"Two random different requests of this file have a similarity of {result.random_median:.2f} (median; 95 % are "
        f"below {result.random_upper:.2f}, 99 % below {result.random_high:.2f}): a near neighbour means something only well "
        f"above that. The IC-Cache paper found {PAPER_SHARE:.0%} above {NEAR} on its traces, with another embedder."
    )
