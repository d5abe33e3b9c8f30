"""Pydantic objects within a cached answer: kept as what their class takes, or not at all."""

from datetime import date
from typing import Any

import pytest
from langchain_core.messages import AIMessage
from langchain_core.outputs import ChatGeneration
from langchain_openai import ChatOpenAI
from pydantic import BaseModel, ConfigDict, Field, RootModel, computed_field, field_validator

from iccache_langchain import ICCache
from iccache_langchain.generations import CannotBeStored, decode, encode
from tests.openai_server import Reply, openai_server


class Person(BaseModel):
    """Somebody."""

    full_name: str = Field(alias="fullName")
    born: date | None = None


class Family(BaseModel):
    """Somebody's."""

    model_config = ConfigDict(extra="forbid")

    members: list[Person]

    @computed_field
    @property
    def size(self) -> int:
        return len(self.members)


class Strict(BaseModel):
    """A date is taken as a date alone."""

    model_config = ConfigDict(strict=True)

    day: date


class OneWay(BaseModel):
    """Read under one name, shown under another."""

    size: int = Field(validation_alias="length")


class Doubled(BaseModel):
    """Made again, it is another."""

    size: int

    @field_validator("size")
    @classmethod
    def double(cls, value: int) -> int:
        return 2 * value


class Fussy(BaseModel):
    """A validator that raises what Pydantic does not catch."""

    size: Any

    @field_validator("size")
    @classmethod
    def live(cls, value: Any) -> Any:
        if not isinstance(value, Doubled):
            raise RuntimeError("no")
        return value


def answer(parsed):
    return [ChatGeneration(message=AIMessage("{}", additional_kwargs={"parsed": parsed}))]


@pytest.mark.parametrize(
    "parsed",
    [
        Person(fullName="Ada"),
        Person(fullName="Ada", born=date(1815, 12, 10)),
        Family(members=[Person(fullName="Ada"), Person(fullName="Byron")]),
    ],
)
def test_its_class_makes_an_equal_object_of_what_is_stored(parsed):
    [back] = decode(encode(answer(parsed)))
    assert type(parsed)(**back.message.additional_kwargs["parsed"]) == parsed


@pytest.mark.parametrize(
    "parsed",
    [
        Strict(day=date(2024, 1, 1)),
        OneWay(length=3),
        Doubled(size=1),
        Fussy(size=Doubled(size=1)),
        RootModel[list[int]]([1]),
        Person.model_construct(full_name=7),
    ],
    ids=lambda parsed: type(parsed).__name__,
)
def test_what_its_class_does_not_make_again_is_not_stored(parsed):
    with pytest.raises(CannotBeStored, match=type(parsed).__name__.partition("[")[0]):
        encode(answer(parsed))


@pytest.mark.parametrize(
    ("schema", "text", "calls"), [(Person, '{"fullName": "Ada"}', 1), (Strict, '{"day": "2024-01-01"}', 2)]
)
def test_a_structured_answer_never_fails_the_second_call(schema, text, calls):
    with openai_server(lambda _: Reply(text)) as server:
        cache = ICCache("memory://")
        llm = ChatOpenAI(base_url=server.url, api_key="none", model="large", cache=cache)
        chain = llm.with_structured_output(schema, method="json_schema")
        first, second = chain.invoke("who?"), chain.invoke("who?")
        assert first == second
        assert isinstance(second, schema)
        assert server.count() == calls
        cache.close()
