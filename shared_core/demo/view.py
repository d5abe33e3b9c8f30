"""How a run looks: a live picture on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from types import TracebackType
from typing import Final, Protocol, Self

from rich.box import SIMPLE_HEAD
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from shared_core.demo.results import Case, Figures, Report, report
from shared_core.demo.texts import shortened
from shared_core.demo.workload import Workload

SHOWN: Final = 10  # requests in the live table
RIGHT: Final = 0.999  # a reward from which an answer is called right


class View(Protocol):
    """Shows a run while it goes on. A context manager around the run."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def show(self, cases: Sequence[Case]) -> None:
        """The newest of `cases` has just been answered."""

    def compare(self, number: int, case: Case) -> None:
        """The `number`th request that is shown side by side: the small model alone and with examples."""

    def warn(self, text: str) -> None:
        """A reason why the rest of the run will show nothing."""


class Silent:
    """Shows nothing: for ``--json``."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None: ...

    def show(self, cases: Sequence[Case]) -> None:
        """Nothing."""

    def compare(self, number: int, case: Case) -> None:
        """Nothing."""

    def warn(self, text: str) -> None:
        """On stderr: stdout holds JSON alone."""
        sys.stderr.write(f"{text}\n")


class Lines:
    """One line a request, for logs and pipes."""

    def __init__(self, console: Console, workload: Workload) -> None:
        self._console = console
        self._total = len(workload.requests)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None: ...

    def show(self, cases: Sequence[Case]) -> None:
        """One line, with the figures so far."""
        case, so_far = cases[-1], report(cases)
        offload = so_far.rows[-1].whole.offload or 0.0
        self._print(
            f"{case.number}/{self._total} {_asked(case)} {_verdict_on(case)}: {shortened(case.request)} -> {shortened(case.answer)}"
            f" | offload {offload:.0%}, quality {so_far.rows[-1].whole.quality or 0.0:.2f}"
        )

    def compare(self, number: int, case: Case) -> None:
        """Four lines."""
        if case.alone is None:
            return
        self._print(f"  side by side {number}: {shortened(case.request)}")
        right, alone = "right answer" if case.is_known else "large model", case.alone
        self._print(f"    {right + ':':<24}{shortened(case.right)}")
        self._print(f"    small alone:            {shortened(alone.answer)} ({_verdict(alone.score, case.is_known)})")
        self._print(f"    small with {case.examples} examples:  {shortened(case.answer)} ({_verdict_on(case)})")

    def warn(self, text: str) -> None:
        """One line."""
        self._print(text)

    def _print(self, text: str) -> None:
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)


class Picture:
    """A table of the latest requests that moves along, the figures under it, what stays above it."""

    def __init__(self, console: Console, workload: Workload) -> None:
        self._console = console
        self._total = len(workload.requests)
        self._live = Live(console=console, refresh_per_second=8, transient=True)

    def __enter__(self) -> Self:
        self._live.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._live.__exit__(kind, error, trace)

    def show(self, cases: Sequence[Case]) -> None:
        """The table moves up by one."""
        self._live.update(Group(_latest(cases[-SHOWN:]), self._figures(cases)))

    def compare(self, number: int, case: Case) -> None:
        """A panel that stays above the table."""
        if case.alone is None:
            return
        table = Table.grid(padding=(0, 2))
        table.add_row(Text("small alone", style="dim"), _marked(case.alone.answer, case.alone.score, case.is_known))
        table.add_row(
            Text(f"with {case.examples} examples", style="dim"), _marked(case.answer, case.score, case.is_known)
        )
        title = Text(f"side by side {number}: {shortened(case.request)}")
        self._console.print(Panel(table, title=title, title_align="left", border_style="dim"))

    def warn(self, text: str) -> None:
        """Stays above the table."""
        self._console.print(Text(text, style="bold yellow"))

    def _figures(self, cases: Sequence[Case]) -> RenderableType:
        now, last = report(cases), report(cases[-30:]).rows[-1].whole
        whole = now.rows[-1].whole
        grid = Table.grid(padding=(0, 2))
        grid.add_row("requests", ProgressBar(self._total, len(cases), width=30), f"{len(cases)} of {self._total}")
        grid.add_row("offloaded", _share(whole.offload), f"{_percent(whole)}, of the last 30 {_percent(last)}")
        grid.add_row("quality", _share(whole.quality), f"{_quality(whole)}, of the last 30 {_quality(last)}")
        grid.add_row(
            "large calls",
            f"{now.large_calls} made, {now.calls_avoided} avoided",
            _tokens(now.tokens_avoided) + ("" if now.tokens_avoided is None else " avoided"),
        )
        return Panel(grid, border_style="cyan")


def introduction(workload: Workload) -> RenderableType:
    """What the run is about, shown before it starts."""
    return Panel(Text("\n".join(workload.about)), title="IC-Cache", title_align="left", border_style="cyan")


def conclusion(final: Report) -> RenderableType:
    """The final table, and what it does and does not show."""
    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("")
    for heading in ("offload", "quality", "1st third", "2nd third", "last third", "n"):
        table.add_column(heading, justify="right", no_wrap=True)
    for row in final.rows:
        parts = [f"{_percent(t)} at {_quality(t)}" if t.n else "-" for t in row.thirds]
        table.add_row(row.name, _percent(row.whole), _quality(row.whole), *parts, str(row.whole.n))
    given = final.with_examples
    asked = f"The small model with examples, where IC-Cache asked it: quality {_quality(given)} over {given.n} answers."
    saved = (
        f"Large model: {final.large_calls} calls made, {final.calls_avoided} avoided: {_tokens(final.tokens_avoided)}."
    )
    alone = f"Small alone was asked on {final.rows[1].whole.n} requests, chosen before the run."
    copy = "Copy nearest returns the answer to the most similar earlier request, as a semantic cache would."
    title = Text("Offload share (asked of the small model, or copied) and quality, by thirds of the run")
    return Group(title, table, Text(asked), Text(saved), Text(f"{alone} {copy}"))


def _latest(cases: Sequence[Case]) -> Table:
    table = Table(box=SIMPLE_HEAD, expand=True, show_edge=False, header_style="dim", padding=(0, 1, 0, 0))
    table.add_column("#", min_width=3, no_wrap=True)
    table.add_column("request", ratio=1, no_wrap=True)
    table.add_column("answered by", min_width=12, no_wrap=True)
    table.add_column("answer", ratio=1, no_wrap=True)
    table.add_column("", min_width=5, no_wrap=True)
    for case in cases:
        style = "green" if case.offloaded else "blue"
        table.add_row(
            str(case.number),
            Text(shortened(case.request)),
            Text(_asked(case), style=style),
            Text(shortened(case.answer)),
            Text(_verdict_on(case), style="green" if case.score >= RIGHT else "red"),
        )
    return table


def _asked(case: Case) -> str:
    return f"{case.arm}, {case.examples} ex." if case.examples else case.arm


def _verdict_on(case: Case) -> str:
    """The verdict on the answer that was given; the large model's own has none where others are compared with it."""
    return _verdict(case.score, case.is_known) if case.is_known or case.offloaded else "-"


def _verdict(score: float, is_known: bool) -> str:
    if is_known and score >= RIGHT:
        return "right"
    return f"{score:.2f}" if score > 0 or not is_known else "wrong"


def _marked(answer: str, score: float, is_known: bool) -> Text:
    return Text(f"{shortened(answer)}  ({_verdict(score, is_known)})", style="green" if score >= RIGHT else "red")


def _tokens(count: int | None) -> str:
    return "tokens unknown: it reports none" if count is None else f"about {count:,} tokens"


def _share(value: float | None) -> ProgressBar:
    return ProgressBar(1.0, value or 0.0, width=30)


def _percent(figures: Figures) -> str:
    return "-" if figures.offload is None else f"{figures.offload:.0%}"


def _quality(figures: Figures) -> str:
    return "-" if figures.quality is None else f"{figures.quality:.2f}"
