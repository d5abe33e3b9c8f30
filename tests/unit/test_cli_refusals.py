"""What the user can mend ends as one line on stderr and exit code 2, whatever it is; never as a traceback."""

import os
import subprocess
import sys
import threading

import pytest

from shared_core.settings import Settings
from shared_core.cli.learn import _keep_going
from shared_core.errors import ConfigurationError
from shared_core.learning.learner import LearnReport
from tests.unit.test_cli import call, refused

PROGRAM = [sys.executable, "-c", "from shared_core.cli import main; main()"]


@pytest.fixture
def folder(monkeypatch, tmp_path):
    """A working folder without settings of anybody."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_store_that_cannot_be_reached(monkeypatch, capsys):
    line = refused(monkeypatch, capsys, "learn", "--store", "redis://127.0.0.1:1/0", "--reference", "large")
    assert "redis://127.0.0.1:1/0?pool=iccache cannot be reached" in line


@pytest.mark.parametrize("seconds", ["inf", "-inf", "nan", "1e30", "0", "-3", "86401"])
def test_a_pause_that_nobody_can_mean(monkeypatch, capsys, folder, seconds):
    line = refused(monkeypatch, capsys, "learn", "--store", "sqlite:///x.db", "--reference", "a", "--every", seconds)
    assert "--every takes seconds above 0 and at most 86,400" in line


def test_an_outage_of_the_store_ends_no_loop_and_is_told_once(capsys):
    stop = threading.Event()

    class Scripted:
        outcomes = iter(["down", "slow", "up", "down", "end"])

        def run_until_drained(self):
            match next(self.outcomes):
                case "down":
                    raise ConnectionError("redis://x cannot be\nreached")
                case "slow":
                    raise TimeoutError("redis://x did not answer in time")
                case "end":
                    stop.set()
            return LearnReport(consumed=1, published=True, version=1)

    _keep_going(Scripted().run_until_drained, None, lambda: True, 0.001, stop, as_json=False)
    captured = capsys.readouterr()
    assert captured.out.splitlines() == ["learned from 1 rewards, published version 1"] * 2
    warning = "iccache: the store failed, next try in 0.001 s: redis://x cannot be reached"
    assert captured.err.splitlines() == [warning] * 2  # once for each outage


@pytest.mark.parametrize(
    ("variables", "text", "complaint"),
    [
        (
            {"ICCACHE_MAX_EXAMPLES": "many"},
            "",
            "ICCACHE_MAX_EXAMPLES is 'many'; it must be a whole number from 0 to 50",
        ),
        ({"iccache_explore": "2"}, "", "iccache_explore is '2'; it must be a number from 0 to 1"),
        ({"ICCACHE_DEADLINE": "0"}, "", "ICCACHE_DEADLINE is '0'; it must be a number above 0"),
        ({}, "max_examples = 'many'", "iccache.toml: max_examples is 'many'; it must be a whole number from 0 to 50"),
        ({}, "max_exmples = 3", "iccache.toml: max_exmples is not a setting; did you mean max_examples?"),
        ({}, "[tool]\nx = 3", "iccache.toml: tool is not a setting; docs/settings.md lists all"),
        ({}, "max_examples = = 3", "iccache.toml is not TOML: Invalid value (at line 1, column 16)"),
        ({}, b"\xff", "iccache.toml is not TOML"),
        (
            {"ICCACHE_SEED": "x"},
            "explore = 3",
            "iccache.toml: explore is 3; it must be a number from 0 to 1; ICCACHE_SEED is 'x'; it must be a whole number",
        ),
    ],
)
def test_a_setting_is_named_with_its_value_and_what_is_allowed(monkeypatch, folder, variables, text, complaint):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    if text:
        (folder / "iccache.toml").write_bytes(text.encode() if isinstance(text, str) else text)
    with pytest.raises(ConfigurationError) as error:
        Settings()
    words = str(error.value)
    assert complaint in words
    assert "\n" not in words


def test_a_wrong_setting_is_one_line_of_the_program(monkeypatch, capsys, folder):
    monkeypatch.setenv("ICCACHE_MAX_EXAMPLES", "many")
    (folder / "x.db").touch()
    assert "ICCACHE_MAX_EXAMPLES" in refused(
        monkeypatch, capsys, "learn", "--store", "sqlite:///x.db", "--reference", "large"
    )


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["estimat"], "No such command 'estimat'."),
        (["estimate"], "See iccache estimate --help"),
        (["learn", "--nope"], "No such option: --nope"),
        (["demo", "--max-tokens", "0"], "--max-tokens"),
        (["demo", "--seed", "x"], "--seed"),
    ],
)
def test_misuse_of_the_command_line_is_one_line(monkeypatch, capsys, arguments, line):
    assert line in refused(monkeypatch, capsys, *arguments)


def test_without_a_command_it_shows_what_there_is(monkeypatch, capsys):
    assert call(monkeypatch) == 0
    assert "estimate" in capsys.readouterr().out


def test_a_full_disk_behind_the_output(folder):
    with open("/dev/full", "w") as full:
        done = subprocess.run([*PROGRAM, "--help"], stdout=full, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 2
    assert done.stderr == "iccache: the output cannot be written: No space left on device\n"


def test_a_reader_that_leaves_early_is_no_error(folder):
    with subprocess.Popen([*PROGRAM, "--help"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as program:
        program.stdout.close()
        assert program.stderr.read() == ""


@pytest.mark.parametrize("variables", [{"PYTHONIOENCODING": "ascii"}, {"LC_ALL": "POSIX", "PYTHONUTF8": "0"}])
def test_a_terminal_that_lacks_a_character_ends_nothing(folder, variables):
    environment = {**os.environ, "PYTHONCOERCECLOCALE": "0", **variables}
    done = subprocess.run(
        [*PROGRAM, "estimate", "büro.jsonl"], capture_output=True, env=environment, stdin=subprocess.DEVNULL
    )
    assert done.returncode == 2
    assert done.stderr.startswith(b"iccache: b")
    assert done.stderr.count(b"\n") == 1
    assert subprocess.run([*PROGRAM, "demo", "--help"], capture_output=True, env=environment).returncode == 0
