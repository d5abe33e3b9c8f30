"""Results as JSON, and docs/benchmarks.md generated from them: ``python -m benchmarks.report``.

A result holds ``title``, ``tables`` (table → row → column → number, text, or [mean, low, high]), ``must_show`` (bound,
measured, holds), and what else its script notes; `write_result` adds command, commit and hardware. Text around the
markers in docs/benchmarks.md is kept.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).parents[1]
RESULTS = Path(__file__).parent / "results"
PAGE = ROOT / "docs" / "benchmarks.md"
BEGIN = "<!-- begin generated: python -m benchmarks.report -->"
END = "<!-- end generated -->"
NOTED = ("seeds", "n", "pool", "large", "notes")  # what a script may note besides its tables


def write_result(name: str, result: Mapping[str, object], out: Path | None = None) -> Path:
    """Write ``<name>.json`` with where, how and on what it was measured; returns its path.

    Args:
        name: The script's name.
        result: See the module's docstring.
        out: Folder; benchmarks/results by default.
    """
    folder = out or RESULTS
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.json"
    whole = {"command": _command(), "commit": _commit(), "hardware": hardware(), **result}
    path.write_text(json.dumps(whole, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return path


def hardware() -> dict[str, object]:
    """Processor, cores, memory, versions, and how busy the machine was; nothing that names it."""
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "memory_gib": round(memory, 1),
        "system": platform.system(),
        "python": platform.python_version(),
        "load_1_min": round(os.getloadavg()[0], 2),
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _command() -> str:
    module = getattr(sys.modules["__main__"], "__spec__", None)
    start = f"-m {module.name}" if module else Path(sys.argv[0]).name
    return " ".join(["python", start, *sys.argv[1:]])


def _commit() -> str:
    """The commit, with ``+`` where tracked files were changed since; empty outside a repository."""
    try:
        commit = _git("rev-parse", "--short=12", "HEAD")
        changed = _git("status", "--porcelain", "--untracked-files=no")
    except (OSError, subprocess.CalledProcessError):
        return ""
    return commit + ("+" if changed else "")


def _git(*arguments: str) -> str:
    return subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()


def render(folder: Path = RESULTS, page: Path = PAGE) -> str:
    """Write what is between the markers of `page` from every result in `folder`; returns the whole page."""
    results = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*.json"))]
    text = page.read_text(encoding="utf-8") if page.exists() else f"# Benchmarks\n\n{BEGIN}\n{END}\n"
    if BEGIN not in text or END not in text:
        raise SystemExit(f"{page} lacks its markers; put {BEGIN!r} and {END!r} around the generated part")
    before, after = text.split(BEGIN)[0], text.split(END)[1]
    whole = f"{before}{BEGIN}\n\n" + "\n".join(section(result) for result in results) + f"\n{END}{after}"
    page.parent.mkdir(parents=True, exist_ok=True)
    page.write_text(whole, encoding="utf-8")
    return whole


def section(result: Mapping[str, object]) -> str:
    """One result as Markdown: what ran where, its tables, and the bounds that it had to show."""
    machine = result["hardware"]
    lines = [
        f"## {result['title']}",
        "",
        (
            f"`{result['command']}` at commit `{result['commit'] or 'unknown'}`; {machine['processor']}, "
            f"{machine['cores']} cores, {machine['memory_gib']} GiB, Python {machine['python']}, "
            f"load average {machine['load_1_min']} at the end."
        ),
        "",
        *(f"- {key}: {_noted(result[key])}" for key in NOTED if result.get(key)),
        "",
    ]
    for title, rows in result["tables"].items():
        lines += [f"### {title}", "", *_table(rows), ""]
    bounds = result.get("must_show", [])
    if bounds:
        lines += ["| Required | Measured | Met |", "|---|---|---|"]
        lines += [
            f"| {_escaped(b['bound'])} | {_cell(b['measured'])} | {'yes' if b['holds'] else '**no**'} |" for b in bounds
        ]
        lines += [""]
    return "\n".join(lines)


def _noted(value: object) -> str:
    if isinstance(value, Mapping):
        return "; ".join(f"{key}: {inner}" for key, inner in value.items())
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def _table(rows: Mapping[str, Mapping[str, object]]) -> list[str]:
    columns = list(dict.fromkeys(column for row in rows.values() for column in row))
    lines = ["| | " + " | ".join(c.replace("_", " ") for c in columns) + " |", "|---" * (len(columns) + 1) + "|"]
    return lines + [
        f"| {_escaped(label)} | " + " | ".join(_cell(row.get(column, "")) for column in columns) + " |"
        for label, row in rows.items()
    ]


def _escaped(text: str) -> str:
    """`text` for one cell of a Markdown table."""
    return text.replace("|", "\\|")


def _cell(value: object) -> str:
    if isinstance(value, list):
        mean, low, high = value
        return f"{_number(mean)} [{_number(low)}, {_number(high)}]"
    return _number(value) if isinstance(value, int | float) and not isinstance(value, bool) else str(value)


def _number(value: float) -> str:
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}" if abs(value) >= 1 else f"{value:.3f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the JSON files")
    parser.add_argument("--page", type=Path, default=PAGE, help="the page to write")
    options = parser.parse_args()
    render(options.results, options.page)
    print(f"wrote {options.page}")


if __name__ == "__main__":
    main()
