"""Pages that repeat facts of the code."""

import ast
import re
import subprocess
import tomllib
from functools import cache
from pathlib import Path

import pytest

from shared_core.settings import Settings

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
ABSENT = ("DESIGN" + ".md", "house" + ".md")


@cache
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
    page = (DOCS / "settings.md").read_text(encoding="utf-8").split("## Options of the constructors")[0]
    assert [line for line in page.splitlines() if line.startswith("| `")] == rows


def test_the_architecture_names_every_module_of_the_core():
    table = (DOCS / "architecture.md").read_text(encoding="utf-8").split("## The packages")[1].split("## ")[0]
    named = set(re.findall(r"`shared_core/(\w+)(?:/|\.py)`", table))
    assert {
        path.stem for path in (ROOT / "shared_core").iterdir() if path.suffix in {"", ".py"} and path.stem[0] != "_"
    } == named


# decision pages -------------------------------------------------------------------------------------------------

DECISIONS = sorted((DOCS / "decisions").glob("[0-9]*.md"))
FORM = re.compile(
    r"# [^\n]+\n\nStatus: (?:accepted|superseded)[^\n]*\d{4}-\d{2}-\d{2}[^\n]*\n\n## Decision\n\n.+\n\n## Why\n\n.+\n\n"
    r"## Revisit when\n\n.+\n",
    re.DOTALL,
)
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
CODE = re.compile(r"(?<!`)`([^`\n]+)`(?!`)")
NAME = re.compile(r"[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*")
FILE = re.compile(r"[\w./-]+/[\w.-]*|[\w-]+\.(?:py|md|toml|ipynb)")
FOREIGN = frozenset(  # names of other projects that our code never says
    """
    set_llm_cache FunctionAgent VLLMOpenAI sys.setswitchinterval threading._register_atexit /v1/completions
    chunk_position total_cost add_messages get_usage_metadata_callback ModelFallbackMiddleware stream_mode
    collect_runs FewShotPromptTemplate deepcopy default_headers refine_template
    """.split()
)
PACKAGES = ("shared_core", "iccache_langchain", "iccache_llamaindex", "benchmarks", "cookbooks")
PAGES = sorted([*ROOT.glob("*.md"), *DOCS.rglob("*.md"), *ROOT.glob("cookbooks/*.md")])


@cache
def known_names() -> tuple[frozenset[str], str]:
    """Every name that the code has, docstrings and comments aside, and extras; and its strings, for counters and keys."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    names, strings = set(project["optional-dependencies"]), []
    for path in tracked():
        if path.suffix != ".py" or path.relative_to(ROOT).parts[0] not in PACKAGES:
            continue
        names.update(path.relative_to(ROOT).with_suffix("").parts)
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            for field in ("id", "attr", "arg", "name", "asname", "module"):
                value = getattr(node, field, None)
                if isinstance(value, str):
                    names.update(value.split("."))
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and "\n" not in node.value:
                strings.append(node.value)
    return frozenset(names), "\n".join(["", *strings, ""])


def unknown_in(text: str) -> list[str]:
    """What stands in backticks, looks like a name, path or setting, and is none of the repository's."""
    names, strings = known_names()
    unknown = []
    for code in CODE.findall(re.sub(r"```.*?```", "", text, flags=re.DOTALL)):
        token = re.sub(r"\(.*\)$|=.*$", "", code.strip())
        if token in FOREIGN:
            continue
        if FILE.fullmatch(token) and "://" not in token:
            tails = [str(path.relative_to(ROOT)) for path in tracked()]
            known = (
                (ROOT / token).exists()
                or any(tail.endswith("/" + token) for tail in tails)
                or f"\n{token}\n" in strings
            )
        elif NAME.fullmatch(token):
            counted = re.sub(r"\.(failed|dropped|retried)$", "", token)  # which `Engine.failed` and lanes add
            known = all(part in names for part in token.split(".")) or counted in strings
        else:
            continue
        if not known:
            unknown.append(code)
    return unknown


def test_decision_pages_are_numbered_without_gaps():
    assert [int(page.name[:4]) for page in DECISIONS] == list(range(1, len(DECISIONS) + 1))


@pytest.mark.parametrize("page", DECISIONS, ids=lambda page: page.stem)
def test_a_decision_page_has_the_form(page):
    text = page.read_text(encoding="utf-8")
    assert FORM.fullmatch(text)
    assert re.findall(r"^##? .*$", text, re.MULTILINE)[1:] == ["## Decision", "## Why", "## Revisit when"]


def test_the_index_lists_exactly_the_decision_pages():
    rows = [line for line in (DOCS / "decisions/README.md").read_text(encoding="utf-8").splitlines() if "](0" in line]
    titles = [page.read_text(encoding="utf-8").splitlines()[0].removeprefix("# ") for page in DECISIONS]
    assert sorted(rows) == sorted(
        f"| {number} | [{title}]({page.name}) | accepted |"
        for number, (title, page) in enumerate(zip(titles, DECISIONS, strict=True), 1)
    )


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_names_in_backticks_exist(page):
    written_by_hand = page.read_text(encoding="utf-8").split("<!-- begin generated")[0]
    assert unknown_in(written_by_hand) == []


def test_a_name_that_does_not_exist_is_found():
    text = "`NoSuchClass`, `engine.no_such_method`, `shared_core/no_such_file.py`, but `Engine.decide` and `engine.py`"
    assert unknown_in(text) == ["NoSuchClass", "engine.no_such_method", "shared_core/no_such_file.py"]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_relative_links_resolve(page):
    links = LINK.findall(page.read_text(encoding="utf-8"))
    relative = [link.split("#")[0] for link in links if not link.startswith(("http", "#", "mailto"))]
    assert [link for link in relative if not (page.parent / link).exists()] == []


def test_citations_of_decision_pages_resolve():
    cited = re.compile(r"docs/decisions/(\d{4}[\w-]*)(\.md)?")
    texts = [path.read_text(encoding="utf-8") for path in tracked() if path.suffix in {".py", ".md", ".toml"}]
    found = {match[1] for text in texts for match in cited.finditer(text)}
    assert found <= {page.stem for page in DECISIONS}
