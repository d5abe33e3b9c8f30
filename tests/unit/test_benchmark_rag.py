"""The RAG benchmark: what stands in each arm's prompt, and that recordings give the same table without a model."""

import gzip
import hashlib

import pytest

pytest.importorskip("llama_index.llms.openai_like")

from benchmarks import manuals
from benchmarks.manuals import Manual, Section, sections
from benchmarks.rag import BOTH, ICCACHE, LARGE, SMALL, Bench, RecordedLLM, must_show, row
from benchmarks.recording import Recordings
from benchmarks.tasks import Item, Task, token_f1
from tests.embedding import Words
from tests.openai_server import openai_server

DOCUMENTS = [
    Section("kettle", "Heating", "The option --heat warms the kettle to so many degrees."),
    Section("lamp", "Dimming", "The option --dim sets how bright the lamp is, in percent."),
]
TASK = Task(
    name="nl2bash",
    system="Answer with a command.",
    max_tokens=16,
    requests=[Item("heat the kettle to 80 degrees", "kettle --heat 80"), Item("dim the lamp to 5", "lamp --dim 5")],
    pool=[
        Item("heat the kettle to 60 degrees", "kettle --heat 60"),
        Item("dim the lamp to 30 percent", "lamp --dim 30"),
        *(Item(f"{word} everything {word}ly", f"{word} *") for word in ("count", "paint", "sell", "wash", "bury")),
    ],
    score=token_f1,
)


def answers(folder, url=None):
    small, large = (RecordedLLM(name, TASK.max_tokens, Recordings(name, folder), url) for name in (SMALL, LARGE))
    return Bench(TASK, small, large, DOCUMENTS, Words()).answers()


@pytest.fixture
def live(tmp_path):
    """Every arm's answers from a scripted server that copies an example if it is shown one, and what it was asked."""

    def answer(asked):
        return next((text for role, text in reversed(asked.turns) if role == "assistant"), f"written by {asked.model}")

    with openai_server(answer) as server:
        return answers(tmp_path, server.url), server.asked


class TestArms:
    def test_each_shows_what_its_name_says(self, live):
        _, asked = live
        request = TASK.requests[0]
        shown = [a for a in asked if a.model == SMALL and a.query == request.request]
        documents = [
            any("--heat warms the kettle" in text for role, text in a.turns if role == "system") for a in shown
        ]
        examples = [("assistant", "kettle --heat 60") in a.turns for a in shown]
        # no help, RAG, IC-Cache, both
        assert documents == [False, True, False, True]
        assert examples == [False, False, True, True]

    def test_documents_come_first_then_examples_then_the_request(self, live):
        _, asked = live
        both = max((a for a in asked if a.model == SMALL), key=lambda a: sum(len(text) for _, text in a.turns))
        roles = [role for role, _ in both.turns]
        assert roles[0] == "system" and set(roles[1::2]) == {"user"} and set(roles[2::2]) == {"assistant"}
        assert both.turns[0][1].startswith(TASK.system)

    def test_held_out_requests_are_in_no_pool(self):
        from benchmarks.rag import nl2bash

        try:
            task = nl2bash(200)
        except SystemExit as absent:
            pytest.skip(str(absent))
        assert not {i.request.lower() for i in task.requests} & {i.request.lower() for i in task.pool}
        assert len(task.requests) == 200


class TestRecordings:
    def test_give_the_same_table_without_a_server(self, live, tmp_path):
        first, _ = live
        again = answers(tmp_path)
        rows = [{label: row(a, arms["no help"]) for label, a in arms.items()} for arms in (first, again)]
        assert rows[0] == rows[1]
        assert rows[0][ICCACHE]["token_F1"][0] > rows[0]["no help"]["token_F1"][0]

    def test_one_that_is_missing_ends_the_run_and_says_how_to_get_it(self, tmp_path):
        with pytest.raises(SystemExit, match=f"--live {LARGE}=URL"):
            answers(tmp_path)


def test_both_worse_than_one_alone_is_reported(live):
    arms, _ = live
    assert [bound["holds"] for bound in must_show(arms)] == [True, True]
    assert [bound["holds"] for bound in must_show(arms | {BOTH: arms["no help"]})] == [False, True]


class TestManuals:
    INFO = (
        "This is lamp.info.\n\x1f\nFile: lamp.info,  Node: Top,  Next: Dimming,  Up: (dir)\n\nThe lamp\n*******\n\x1f\n"
        "File: lamp.info,  Node: Dimming,  Next: Index,  Prev: Top,  Up: Top\n\n1 Dimming\n*********\n\n"
        "The option --dim sets how bright the lamp is, in percent; *note Colours:: says what a colour costs.\n"
        "* Menu:\n\n* Colours::\n\x1f\nFile: lamp.info,  Node: Index,  Prev: Dimming,  Up: Top\n\n" + "dim, 1\n" * 30
    )

    @pytest.fixture
    def folder(self, tmp_path, monkeypatch):
        (tmp_path / "lamp.info.gz").write_bytes(gzip.compress(self.INFO.encode()))
        known = Manual("lamp.info", "lamp 1.0", hashlib.sha256(self.INFO.encode()).hexdigest())
        monkeypatch.setattr(manuals, "MANUALS", (known,))
        return tmp_path

    def test_are_read_section_by_section_without_indexes_menus_and_underlines(self, folder):
        text = (
            "1 Dimming\n\nThe option --dim sets how bright the lamp is, in percent; Colours says what a colour costs."
        )
        assert sections(folder) == [Section("lamp", "Dimming", text)]

    def test_of_another_version_are_refused(self, folder):
        (folder / "lamp.info.gz").write_bytes(gzip.compress(b"other"))
        with pytest.raises(SystemExit, match=r"another version .* lamp 1.0"):
            sections(folder)

    def test_that_are_absent_are_named(self, folder):
        (folder / "lamp.info.gz").unlink()
        with pytest.raises(SystemExit, match=r"lamp\.info\.gz; .* ICCACHE_MANUALS"):
            sections(folder)
