"""Reads users' JSON lines, with errors that name the line."""

from __future__ import annotations

import gzip
import io
import json
import os
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, Final, TextIO, cast

from shared_core.errors import ConfigurationError

STANDARD_INPUT: Final = Path("-")
_GZIP: Final = b"\x1f\x8b"
_NAMED: Final = 10  # fields of a line that a message lists, each cut to `_NAME_LENGTH` characters
_NAME_LENGTH: Final = 30


def read_jsonl(
    path: Path, required: Sequence[str], optional: Sequence[str] = (), options: Mapping[str, str] | None = None
) -> Iterator[Mapping[str, str]]:
    """The text fields of a file with one JSON object per line; empty lines are skipped, other fields ignored.

    Args:
        path: UTF-8 text, with or without byte order mark, plain or gzipped; ``-`` is standard input.
        required: Fields that must hold a non-empty string.
        optional: Fields that may be absent, null or blank; such fields are left out.
        options: By field, the command's option that sets the field's name.

    Raises:
        ConfigurationError: The file is unreadable or empty, a line is not a JSON object, or a field is not a string.
    """
    name = called(path)
    found = False
    try:
        with _lines(path) as lines:
            for number, line in enumerate(lines, 1):
                if line.strip():
                    row = _object(line, f"{name}, line {number}", required[0], first=not found)
                    yield _fields(row, f"{name}, line {number}", required, optional, options or {})
                    found = True
    except UnicodeDecodeError as error:
        raise ConfigurationError(
            f"{name} is not UTF-8 text: {error.reason}; convert it to UTF-8, or use another file"
        ) from error
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise ConfigurationError(f"{name} is a damaged or truncated gzip file: {error}; create it again") from error
    except OSError as error:
        raise ConfigurationError(f"{name} cannot be read: {error.strerror or error}") from error
    if not found:
        raise ConfigurationError(f"{name} is empty; expected {_expected(required[0])}")


def called(path: Path) -> str:
    """The file's name in messages."""
    return "standard input" if path == STANDARD_INPUT else str(path)


@contextmanager
def _lines(path: Path) -> Iterator[TextIO]:
    """The decompressed text of the file."""
    with os.fdopen(0, "rb", closefd=False) if path == STANDARD_INPUT else path.open("rb") as raw:
        is_packed = raw.peek(len(_GZIP))[: len(_GZIP)] == _GZIP  # a pipe cannot be read twice
        data = cast("BinaryIO", gzip.GzipFile(fileobj=raw)) if is_packed else raw
        with io.TextIOWrapper(data, encoding="utf-8-sig") as lines:
            yield lines


def _object(line: str, where: str, field: str, *, first: bool) -> Mapping[str, Any]:
    try:
        row = json.loads(line)
    except RecursionError as error:
        raise ConfigurationError(f"{where} is nested too deeply; leave out the nested field") from error
    except ValueError as error:
        if first and not line.lstrip().startswith("{"):
            raise ConfigurationError(f"{where} is not JSON{_guess(line, field)}") from error
        at = f" at character {error.pos + 1}" if isinstance(error, json.JSONDecodeError) else ""
        reason = error.msg if isinstance(error, json.JSONDecodeError) else str(error)
        raise ConfigurationError(f"{where} is not JSON ({reason}{at}); expected {_expected(field)}") from error
    if not isinstance(row, dict):
        raise ConfigurationError(f"{where} is not a JSON object{_guess(line, field)}")
    return row


def _guess(line: str, field: str) -> str:
    """The probable format of a file that begins like this, and the expected one."""
    kind = ""
    if line.lstrip().startswith("["):
        kind = ", but looks like a JSON array (jq -c '.[]' writes its lines)"
    elif "," in line or "\t" in line:
        kind = ", but looks like CSV"
    return f"{kind}; expected {_expected(field)}"


def _expected(field: str) -> str:
    return f'one JSON object per line, e.g. {{"{field}": "…"}}'


def _fields(
    row: Mapping[str, Any], where: str, required: Sequence[str], optional: Sequence[str], options: Mapping[str, str]
) -> Mapping[str, str]:
    for name in required:
        if not isinstance(row.get(name), str) or not row[name].strip():
            raise ConfigurationError(f'{where} has no text in the field "{name}"{_other_fields(row, name, options)}')
    for name in optional:
        if not isinstance(row.get(name) or "", str):
            raise ConfigurationError(f'{where}: the field "{name}" must be a string, or be left out')
    texts = {name: text for name in (*required, *optional) if isinstance(text := row.get(name), str) and text.strip()}
    for name, text in texts.items():
        if not _is_whole(text):
            raise ConfigurationError(
                f'{where}: the field "{name}" holds half a character (a lone surrogate), maybe of a truncated log; '
                "remove it, or remove the line"
            )
    return texts


def _other_fields(row: Mapping[str, Any], name: str, options: Mapping[str, str]) -> str:
    if name in row:
        return "" if isinstance(row[name], str) else f", which holds {_kind(row[name])}"
    names = ", ".join(f'"{other[:_NAME_LENGTH]}"' for other in list(row)[:_NAMED]) or "none"
    remedy = f"; choose another one with {options[name]}" if name in options else ""
    return f"; its fields are: {names}{' …' if len(row) > _NAMED else ''}{remedy}"


def _kind(value: object) -> str:
    kinds = {dict: "an object", list: "a list", bool: "true or false", type(None): "null"}
    return kinds.get(type(value), "a number")


def _is_whole(text: str) -> bool:
    """False if a character cannot be encoded in UTF-8."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
