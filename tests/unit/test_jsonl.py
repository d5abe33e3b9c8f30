"""Files as users have them: with byte order marks, gzipped, as arrays and CSV, with other keys."""

import gzip
import json
import subprocess
import sys

import pytest

from shared_core.jsonl import read_jsonl
from shared_core.errors import ConfigurationError

ROWS = [{"request": "a"}, {"request": "ä", "answer": "b"}]
LINES = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS)


def read(tmp_path, data, **options):
    file = tmp_path / "mine.jsonl"
    file.write_bytes(data.encode() if isinstance(data, str) else data)
    return list(read_jsonl(file, ["request"], ["answer"], options))


@pytest.mark.parametrize(
    "data",
    [
        LINES,
        LINES.encode("utf-8-sig"),
        gzip.compress(LINES.encode()),
        gzip.compress(LINES.encode("utf-8-sig")),
        LINES.replace("\n", "\r\n\r\n"),
    ],
)
def test_the_same_lines_in_other_clothes(tmp_path, data):
    assert read(tmp_path, data) == ROWS


def test_standard_input_plain_and_packed():
    code = "from pathlib import Path; from shared_core.jsonl import read_jsonl; import sys;"
    code += "print([r['request'] for r in read_jsonl(Path('-'), ['request'])], sys.stdin.isatty())"
    for data in (LINES.encode(), gzip.compress(LINES.encode())):
        done = subprocess.run([sys.executable, "-c", code], input=data, capture_output=True, check=True)
        assert done.stdout.decode() == "['a', 'ä'] False\n"


@pytest.mark.parametrize("value", ["null", '""', '"  "'])
def test_an_optional_field_that_says_nothing_is_left_out(tmp_path, value):
    assert read(tmp_path, f'{{"request": "a", "answer": {value}}}') == [{"request": "a"}]


@pytest.mark.parametrize(
    ("data", "complaint"),
    [
        (
            '[{"request": "a"}]',
            "line 1 is not a JSON object, but looks like a JSON array (jq -c '.[]' writes its lines)",
        ),
        ('[\n  {"request": "a"}\n]', "line 1 is not JSON, but looks like a JSON array"),
        ("request,answer\na,b\n", "line 1 is not JSON, but looks like CSV; expected one JSON object per line, e.g."),
        ("request\tanswer\n", "looks like CSV"),
        ("how do I\n", 'line 1 is not JSON; expected one JSON object per line, e.g. {"request": "…"}'),
        (
            '{\n  "request": "a"\n}',
            "line 1 is not JSON (Expecting property name",
        ),
        (
            '{"request": "a"}\n{"request" "b"}',
            "line 2 is not JSON (Expecting ':' delimiter at character 12); expected one",
        ),
        ('{"prompt": "a", "id": 3}', 'has no text in the field "request"; its fields are: "prompt", "id"'),
        ("{}", "its fields are: none"),
        ('{"request": ["a"]}', 'has no text in the field "request", which holds a list'),
        ('{"request": null}', "which holds null"),
        ('{"request": true}', "which holds true or false"),
        ('{"request": "a", "answer": 3}', 'the field "answer" must be a string, or be left out'),
        ('{"request": "a", "answer": "\\udc00"}', 'line 1: the field "answer" holds half a character'),
        (b"\x1f\x8b\x08\x00cut", "is a damaged or truncated gzip file"),
        (gzip.compress(LINES.encode())[:-9], "is a damaged or truncated gzip file"),
        (LINES.encode("utf-16"), "is not UTF-8 text"),
    ],
)
def test_what_is_wrong_is_said_once_with_the_line(tmp_path, data, complaint):
    with pytest.raises(ConfigurationError) as error:
        read(tmp_path, data)
    assert complaint in str(error.value)
    assert "line 1 column" not in str(error.value)


def test_a_wrong_key_names_the_option_where_there_is_one(tmp_path):
    with pytest.raises(ConfigurationError, match="choose another one with --field$"):
        read(tmp_path, '{"prompt": "a"}', request="--field")


def test_a_line_of_many_fields_lists_the_first(tmp_path):
    with pytest.raises(ConfigurationError) as error:
        read(tmp_path, json.dumps({f"{n}" * 99: 1 for n in range(30)}))
    assert len(str(error.value)) < 600
    assert str(error.value).endswith(" …")


def test_half_a_character_beside_its_other_half_is_a_character(tmp_path):
    assert read(tmp_path, '{"request": "\\ud83d\\ude00"}') == [{"request": "😀"}]
