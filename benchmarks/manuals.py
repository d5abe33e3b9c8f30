"""The document set of benchmarks/rag.py: the GNU manuals of the tools that NL2Bash asks for, as Debian 12 ships them.

They are read as Info files, which are plain text in sections, and never written anywhere. Every Debian system has
them in its base packages, but container images often leave them out. `apt-get download findutils=4.9.0-4` and
``dpkg-deb -x`` bring one of them back without installing anything.
"""

from __future__ import annotations

import gzip
import hashlib
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

FOLDER = Path(os.environ.get("ICCACHE_MANUALS", "/usr/share/info"))


@dataclass(frozen=True, slots=True)
class Manual:
    """One Info file: its name without ``.gz``, the Debian package and version, SHA-256 of the text."""

    file: str
    package: str
    sha256: str


MANUALS = (
    Manual("find.info-1", "findutils 4.9.0-4", "47b9a2fac1344b1f40b779abc74d5552754c7fdac344e2ac0fda62059a1b2c91"),
    Manual("find.info-2", "findutils 4.9.0-4", "59b820b134e69ef556f7803d5a4f945b5c06c37c3f2c0dafcd3d200aa28eb88a"),
    Manual("coreutils.info", "coreutils 9.1-1", "d3ce27482be8d64dcacf6001e74cceedf121258a00d359629c5ddd4f885b284b"),
    Manual("grep.info", "grep 3.8-5", "b3280761dbafb396199b135c085d41d60f441d122c08ddcc2fc7729d8ac00650"),
    Manual("sed.info", "sed 4.9-1", "7177a844137cc4a77624abbdd57006cfa9f69248a255e086d5d309266265fbb4"),
    Manual("diffutils.info", "diffutils 1:3.8-4", "f6e373fa98fd3bd84664a43d9830dfde77ba85cbd5a60aeefec309b96ee14e92"),
    Manual("gzip.info", "gzip 1.12-1", "87d52bcc07b4bf88ef311243e72665ccf297df6fd4a69fc13f3b048cc2eaf8f4"),
)

_SECTION = re.compile(r"File: (?P<file>[^,]+)\.info,  Node: (?P<node>[^,]+),")
_UNDERLINE = re.compile(r"^[*=.-]{3,}\n", re.MULTILINE)
_REFERENCE = re.compile(r"\*[Nn]ote ([^:]+)::")
_NOT_ABOUT_TOOLS = re.compile(r"Index|License|^Top$|Reporting Bugs")
SHORTEST = 80  # characters; a shorter section is a heading above a menu


@dataclass(frozen=True, slots=True)
class Section:
    """One section of a manual."""

    manual: str
    title: str
    text: str


def sections(folder: Path = FOLDER) -> list[Section]:
    """All sections that say something about a tool, in the order of the manuals.

    Raises:
        SystemExit: A manual is absent, or is not the version that the recordings were made with.
    """
    return [section for manual in MANUALS for section in _sections(_read(folder, manual))]


def _read(folder: Path, manual: Manual) -> str:
    path = folder / f"{manual.file}.gz"
    hint = f"it is usr/share/info/{path.name} of Debian 12's {manual.package}; set ICCACHE_MANUALS to its folder"
    if not path.exists():
        raise SystemExit(f"benchmark document missing: {path}; {hint}")
    data = gzip.decompress(path.read_bytes())
    if hashlib.sha256(data).hexdigest() != manual.sha256:
        raise SystemExit(f"{path} is another version than the recordings were made with; {hint}")
    return data.decode()


def _sections(info: str) -> Iterator[Section]:
    for part in info.split("\x1f\n")[1:]:
        head, _, body = part.partition("\n")
        found = _SECTION.match(head)
        if found is None or _NOT_ABOUT_TOOLS.search(found["node"]):
            continue
        text = _REFERENCE.sub(r"\1", _UNDERLINE.sub("", body.split("* Menu:")[0])).strip()
        if len(text) >= SHORTEST:
            yield Section(found["file"], found["node"], text)
