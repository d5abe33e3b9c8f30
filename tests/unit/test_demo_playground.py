"""After the run: what the prompt suggests, and what is shown of long texts."""

import io
from types import SimpleNamespace

import pytest
from rich.console import Console

from shared_core.demo.playground import play
from shared_core.demo.run import Trial
from shared_core.demo.workload import built_in, from_file
from shared_core.demo.options import DemoOptions


@pytest.fixture
def console(monkeypatch):
    opened = Console(file=io.StringIO(), width=1000, force_terminal=False)
    lines = iter(["why", ""])
    monkeypatch.setattr(opened, "input", lambda _: next(lines))
    return opened


def demo(workload):
    example = SimpleNamespace(query="long " * 999, answer="longer " * 999)
    return SimpleNamespace(workload=workload, try_out=lambda _: Trial("no", "yes", (example,)))


def test_it_suggests_a_request_of_the_users_own(console, tmp_path):
    file = tmp_path / "mine.jsonl"
    file.write_text('{"request": "what is {x}\\nthere?"}\n{"request": "who ' + "am " * 999 + 'I?"}\n')
    play(demo(from_file(DemoOptions(requests=1), file)), console)
    shown = console.file.getvalue()
    assert "Your own request, such as: what is {x} there? (an empty line ends)" in shown
    assert "wine cellar" not in shown
    assert "with 1 examples" in shown
    assert max(map(len, shown.splitlines())) < 500


def test_the_built_in_task_keeps_its_suggestion(console):
    play(demo(built_in(0, 3)), console)
    assert "such as: heat the wine cellar to 12 degrees (an empty line ends)" in console.file.getvalue()
