"""Bodies of messages: whatever a bot's author sends arrives as it was."""

from __future__ import annotations

from types import MappingProxyType
from typing import Any

import pytest
from pydantic import BaseModel, ValidationError

from dims.ipc.wire.bodies import unwrap_body, wrap_body


class Order(BaseModel):
    """What authors use as body."""

    item: str
    at: float = 0.0


@pytest.mark.parametrize(
    "body",
    [{}, {"n": 1}, {"~": 1}, {"~": {"~": 1}}, {"~": 1, "n": 2}, [], [1], "text", 0, 1.5, True],
)
def test_a_body_arrives_as_it_was(body: Any) -> None:
    assert unwrap_body(wrap_body(body)) == body


def test_an_object_travels_as_it_is() -> None:
    body = {"n": 1}
    assert wrap_body(body) is body


def test_what_is_no_object_travels_inside_one() -> None:
    assert wrap_body([1]) == {"~": [1]}


def test_what_looks_like_the_inside_of_one_travels_inside_another() -> None:
    assert wrap_body({"~": 1}) == {"~": {"~": 1}}


def test_nothing_is_an_empty_object() -> None:
    assert wrap_body(None) == {}


def test_any_mapping_is_an_object() -> None:
    wrapped = wrap_body(MappingProxyType({"n": 1}))
    assert (type(wrapped), wrapped) == (dict, {"n": 1})


def test_a_model_arrives_as_one_where_one_is_asked_for() -> None:
    wrapped = wrap_body(Order(item="tea"))
    assert wrapped == {"item": "tea", "at": 0.0}
    assert unwrap_body(wrapped, Order) == Order(item="tea")
    with pytest.raises(ValidationError):
        unwrap_body({"at": 1.0}, Order)


def test_a_model_is_dumped_as_json() -> None:
    class Blob(BaseModel):
        data: bytes

    assert wrap_body(Blob(data=b"x")) == {"data": "x"}
