"""Pages that repeat what the code says."""

from pathlib import Path

from shared_core.settings import Settings

DOCS = Path(__file__).parents[2] / "docs"


def test_the_page_of_settings_lists_every_one_as_it_is():
    rows = [f"| `{name}` | {field.default:g} | {field.description} |" for name, field in Settings.model_fields.items()]
    page = (DOCS / "settings.md").read_text(encoding="utf-8")
    assert [line for line in page.splitlines() if line.startswith("| `")] == rows
