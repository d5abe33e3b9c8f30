"""`Settings` for the command line: what the environment or iccache.toml gets wrong is said in one line."""

from __future__ import annotations

import difflib
import os
import tomllib
from collections.abc import Mapping
from typing import Any, Final

from pydantic import ValidationError

from shared_core.errors import SettingIsWrong
from shared_core.settings import Settings

PREFIX: Final = str(Settings.model_config["env_prefix"])
FILE: Final = str(Settings.model_config["toml_file"])
_KINDS: Final = {"integer": "a whole number", "number": "a number"}
_BOUNDS: Final = (
    ("minimum", "from {:g}"),
    ("exclusiveMinimum", "above {:g}"),
    ("maximum", "to {:g}"),
    ("exclusiveMaximum", "below {:g}"),
)


def read_settings(**given: Any) -> Settings:
    """`Settings` from code over environment over iccache.toml.

    Raises:
        SettingIsWrong: A variable or a key of the file cannot be used; the message names it, its value and what is
            allowed.
    """
    try:
        return Settings(**given)
    except ValidationError as error:
        raise SettingIsWrong("; ".join(_complaint(e["loc"][0], e["input"]) for e in error.errors())) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingIsWrong(
            f"{FILE} is not TOML: {error}; write one line a setting, such as max_examples = 3"
        ) from error


def _complaint(name: object, value: object) -> str:
    """What is wrong with the setting `name`, which is held by a variable or by the file."""
    key = str(name)
    allowed = Settings.model_json_schema()["properties"].get(key)
    if allowed is None:
        near = difflib.get_close_matches(key, Settings.model_fields, 1)
        return f"{FILE}: {key} is no setting" + (
            f"; did you mean {near[0]}?" if near else "; docs/settings.md lists all"
        )
    variable = next((v for v in os.environ if v.upper() == f"{PREFIX}{key}".upper()), None)
    where = f"{variable} is" if variable else f"{FILE}: {key} is"
    return f"{where} {repr(value)[:50]}; it takes {_range(allowed)}"


def _range(allowed: Mapping[str, Any]) -> str:
    """In words, what a field's JSON schema allows."""
    bounds = [words.format(allowed[name]) for name, words in _BOUNDS if name in allowed]
    return " ".join([_KINDS.get(str(allowed.get("type")), "another value"), *bounds])
