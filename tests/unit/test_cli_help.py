"""Help as a user sees it, on terminals of 80, 100 and 120 columns: text flows, and each command shows an example."""

import re
import shlex

import pytest

from tests.unit.test_cli import call

COMMANDS = ("", "demo", "estimate", "learn", "feedback", "doctor", "log export", "log rounds", "demo-models")
WIDTHS = (80, 100, 120)
BOX = "│╭╰"


def shown(monkeypatch, capsys, command, width):
    """The lines of the help of a command."""
    monkeypatch.setenv("COLUMNS", str(width))
    assert call(monkeypatch, *command.split(), "--help") == 0
    return [line.rstrip() for line in capsys.readouterr().out.splitlines()]


def paragraphs(lines):
    """Runs of lines outside of boxes without an empty line between them, each item of a list for itself."""
    found, current = [], []
    for line in [*lines, ""]:
        ends = not line.strip() or line[0] in BOX
        if current and (ends or re.match(r"  \d ", line)):
            found.append(current)
            current = []
        if not ends:
            current.append(line)
    return found


def cells(lines):
    """The texts in the last column of each box, those of each entry for themselves, and the width of that column."""
    found = []
    for line in lines:
        if line.startswith("╭"):
            rows = []
        elif line.startswith("│"):
            rows.append(line[1:-1])
        elif line.startswith("╰"):
            column = last_column(rows)
            found += [(texts, len(rows[0]) - column - 1) for texts in entries(rows, column)]
    return found


def last_column(rows):
    """Where the last column of a box begins: after the last gap of two spaces that all of its rows have."""
    gaps = [i for i in range(2, len(rows[0])) if all(row[i - 2 : i] == "  " for row in rows)]
    return next(i for i in reversed(gaps) if rows[0][i] != " ")


def entries(rows, column):
    """The texts of a box by entry; a default, and the mark of what is required, stand for themselves."""
    found = []
    for row in rows:
        text = row[column:].rstrip()
        if row[:column].strip() or text.startswith("["):
            found.append([])
        found[-1].append(text)
    return found


def is_code(paragraph):
    return paragraph[0].startswith("  iccache ")


def ragged(lines, width):
    """Lines that end although the next word would have fitted into `width` columns."""
    return [line for line, after in zip(lines, lines[1:]) if len(line.rstrip()) + 1 + len(after.split()[0]) <= width]


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("command", COMMANDS)
def test_no_line_ends_before_it_must(monkeypatch, capsys, command, width):
    lines = shown(monkeypatch, capsys, command, width)
    assert max(map(len, lines)) <= width
    prose = [p for p in paragraphs(lines) if not is_code(p)]
    assert len(prose) >= 3
    assert [line for paragraph in prose for line in ragged(paragraph, width - 1)] == []
    options = cells(lines)
    assert ["Show this message and exit."] in [texts for texts, _ in options]
    assert [line for texts, room in options for line in ragged(texts, room)] == []


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("command", COMMANDS[1:])
def test_each_command_shows_one_example_that_can_be_pasted(monkeypatch, capsys, command, width):
    examples = [p for p in paragraphs(shown(monkeypatch, capsys, command, width)) if is_code(p)]
    assert len(examples) == 1
    words = shlex.split("\n".join(examples[0]).replace("\\\n", " "))
    names = command.split()
    assert words[: 1 + len(names)] == ["iccache", *names]
    from typer.main import get_command

    from shared_core.cli import app

    found = get_command(app)
    for name in names:
        found = found.commands[name]
    found.make_context(command, words[1 + len(names) :])  # raises where an option does not exist


@pytest.mark.parametrize("command", [*COMMANDS, "log"])
def test_a_flag_takes_no_value(monkeypatch, capsys, command):
    lines = shown(monkeypatch, capsys, command, 120)
    assert any("--help" in line for line in lines)
    assert not [line for line in lines if "bool" in line.lower()]


def test_a_line_that_ends_too_early_is_found():
    box = [
        "╭─ Options ──────╮",
        "│ --a  <b>  Two  │",
        "│           words │",
        "│ --cc      d    │",
        "╰────────────────╯",
    ]
    assert [texts for texts, _ in cells(box)] == [["Two", "words"], ["d"]]
    assert ragged([" answers of a", " large model"], 30) == [" answers of a"]
    assert ragged([" answers of a", " large model"], 18) == []
    assert paragraphs([" a", " b", "", "  1 c", "    d", "  2 e", "╭─", "│ f", "╰─"]) == [
        [" a", " b"],
        ["  1 c", "    d"],
        ["  2 e"],
    ]
