"""After the run, on a terminal: requests of the user's own."""

from __future__ import annotations

from typing import Final

from rich.console import Console
from rich.table import Table
from rich.text import Text

from shared_core.demo.run import Demo
from shared_core.demo.texts import shortened
from shared_core.errors import ICCacheError

HINT: Final = "Your own request, such as: {} (an empty line ends)"
HINT_LENGTH: Final = 80


def play(demo: Demo, console: Console) -> None:
    """Ask for requests until an empty line, end of input or interrupt; each is answered twice by the small model."""
    console.print(Text("\n" + HINT.format(shortened(demo.workload.hint, HINT_LENGTH)), style="bold"))
    while True:
        try:
            request = console.input("> ").strip()
        except (EOFError, KeyboardInterrupt):
            console.print()
            return
        if not request:
            return
        try:
            trial = demo.try_out(request)
        except ICCacheError as error:
            console.print(Text(str(error), style="red"))
            continue
        table = Table.grid(padding=(0, 2))
        for example in reversed(trial.examples):
            table.add_row(
                Text("example", style="dim"),
                Text(f"{shortened(example.query)} -> {shortened(example.answer)}", style="dim"),
            )
        table.add_row("small alone", Text(" ".join(trial.alone.split())))
        table.add_row(f"with {len(trial.examples)} examples", Text(" ".join(trial.helped.split()), style="green"))
        console.print(table)
