"""docs/counters.md lists every counter and timing of the code, with its labels, and nothing else."""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGES = ("iccache_langchain", "iccache_llamaindex", "shared_core")

# Calls that count under a name made of their first argument: the suffixes, and the labels.
MAKERS = {
    "failed": ((".failed",), ("error",)),
    "Periodic": ((".failed",), ("error",)),
    "_failing_open": ((".failed", ".unreadable.failed"), ("error",)),
}
MADE = {
    "{self._name}.dropped",
    "{self._name}.failed",
    "{self._name}.retried",
    "{where}.failed",
    "{where}.unreadable",
}  # fmt: skip — names that only these calls, and those that add a lane, fill in


def calls():
    for package in PACKAGES:
        for path in (ROOT / package).rglob("*.py"):
            tree = ast.parse(path.read_text(encoding="utf-8"))
            yield from (node for node in ast.walk(tree) if isinstance(node, ast.Call) and node.args)


def constants(node):
    """The texts that an expression may be; none for a variable."""
    if isinstance(node, ast.IfExp):
        return [*constants(node.body), *constants(node.orelse)]
    return [node.value] if isinstance(node, ast.Constant) and isinstance(node.value, str) else []


def counted(method):
    """Name → labels of all that is passed to `Counters.<method>`, and the names that are made at run time."""
    found, made = {}, set()
    for call in calls():
        name, receiver = ast.unparse(call.func).rpartition(".")[2], ast.unparse(call.func).rpartition(".")[0]
        by_failures = receiver.endswith("failures") or receiver == "self"  # `Failures` counts by itself, too
        if name == method and (receiver.endswith("counters") or by_failures):
            labels = ("error",) if by_failures else tuple(k.arg for k in call.keywords)
            found |= dict.fromkeys(constants(call.args[0]), labels)
        if name in {method, "failed"} and isinstance(call.args[0], ast.JoinedStr):
            made.add(ast.unparse(call.args[0])[2:-1])
        if name in MAKERS and method == "count":
            suffixes, labels = MAKERS[name]
            found |= {text + suffix: labels for text in constants(call.args[0]) for suffix in suffixes}
        if name == "add" and receiver.endswith("lanes") and method == "count":
            found |= {
                f"{text}.{what}": labels for text in constants(call.args[0]) for what, labels in lane_counts(call)
            }
    return found, made


def lane_counts(call):
    """What a lane counts; only one that tells passing errors tries again."""
    yield from (("dropped", ()), ("failed", ("error",)))
    if "is_temporary" in {keyword.arg for keyword in call.keywords}:
        yield "retried", ("error",)


def listed(heading):
    """Name → labels in the table with this heading."""
    page = (ROOT / "docs" / "counters.md").read_text(encoding="utf-8")
    table = page.split(f"| {heading} | labels |")[1].split("\n\n")[0]
    rows = re.findall(r"^\| `([^`]+)` \| ([^|]*)\| \S.* \|$", table, re.MULTILINE)
    assert len(rows) == len(table.strip().splitlines()) - 2, "a row has another form"
    return {name: tuple(re.findall(r"`(\w+)`", labels)) for name, labels in rows}


def test_every_counter_is_listed():
    found, made = counted("count")
    assert listed("counter") == found
    assert made == MADE, "a new kind of name: add the calls that fill it in to MAKERS"


def test_every_timing_is_listed():
    found, made = counted("observe")
    assert listed("timing") == found
