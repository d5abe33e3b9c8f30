"""JSON lines as users bring them, with errors that name the line."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from shared_core.errors import SettingIsWrong


def read_jsonl(path: Path, required: Sequence[str], optional: Sequence[str] = ()) -> Iterator[Mapping[str, str]]:
    """The text fields of a file of JSON objects, one a line; empty lines are passed over, other fields ignored.

    Raises:
        SettingIsWrong: The file cannot be read or is empty, a line is no JSON object, or a field is no text.
    """
    found = False
    try:
        with path.open(encoding="utf-8") as lines:
            for number, line in enumerate(lines, 1):
                if line.strip():
                    found = True
                    yield _fields(line, f"{path}, line {number}", required, optional)
    except OSError as error:
        raise SettingIsWrong(f"{path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise SettingIsWrong(f"{path} is not UTF-8 text: {error.reason}; convert it, or name another file") from error
    if not found:
        raise SettingIsWrong(f'{path} is empty; expected one JSON object a line, such as {{"{required[0]}": "…"}}')


def _fields(line: str, where: str, required: Sequence[str], optional: Sequence[str]) -> Mapping[str, str]:
    try:
        row = json.loads(line)
    except ValueError as error:
        raise SettingIsWrong(f"{where} is not JSON: {error}") from error
    if not isinstance(row, dict):
        raise SettingIsWrong(f'{where} is no JSON object; expected {{"{required[0]}": "…"}}')
    for name in required:
        if not isinstance(row.get(name), str) or not row[name].strip():
            raise SettingIsWrong(f'{where} has no text in the field "{name}"')
    for name in optional:
        if not isinstance(row.get(name, ""), str):
            raise SettingIsWrong(f'{where}: the field "{name}" must hold a text, or be left out')
    return {name: row[name] for name in (*required, *optional) if name in row}
