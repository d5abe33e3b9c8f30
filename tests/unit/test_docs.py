"""Pages that repeat what the code says."""

import subprocess
from pathlib import Path

from shared_core.settings import Settings

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
ABSENT = ("DESIGN" + ".md", "house" + ".md")


def tracked() -> list[Path]:
    """The files of the repository; without git, those of the packages, tests and docs."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False)  # noqa: S607
    if listed.returncode == 0:
        return [path for name in listed.stdout.split("\0") if name and (path := ROOT / name).is_file()]
    folders = ("shared_core", "iccache_langchain", "iccache_llamaindex", "tests", "benchmarks", "docs")
    return [path for folder in folders for path in (ROOT / folder).rglob("*") if path.suffix in {".py", ".md"}]


def test_no_file_cites_a_page_that_the_repository_does_not_hold():
    texts = {path: path.read_bytes() for path in tracked() if path.suffix in {".py", ".md", ".toml", ".ipynb"}}
    assert [(path.name, name) for path, text in texts.items() for name in ABSENT if name.encode() in text] == []


def test_the_page_of_settings_lists_every_one_as_it_is():
    rows = [f"| `{name}` | {field.default:g} | {field.description} |" for name, field in Settings.model_fields.items()]
    page = (DOCS / "settings.md").read_text(encoding="utf-8")
    assert [line for line in page.splitlines() if line.startswith("| `")] == rows
