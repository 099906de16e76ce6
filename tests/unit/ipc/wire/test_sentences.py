"""Every sentence that processes say: there and back, what is new in it, what is wrong with it."""

from __future__ import annotations

import enum
import importlib
import json
import pkgutil
import traceback
import types
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, asdict, dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dims.errors import ProtocolError, RefusedError
from dims.ipc import words
from dims.ipc.wire.sentences import Vocabulary, read, written
from dims.ipc.words.failures import Exit
from dims.ipc.words.fleet import Hello, Leave, MayServe, Will
from dims.ipc.words.keeping import KeeperWelcome, SpawnDone, SpawnRefused, StopFleet

FEW = settings(max_examples=15)
"""For each of so many types; together they are a thousand."""
MARKER = "Zq"  # stands in no message, and in no name


def _all() -> Iterator[type[Any]]:
    for found in pkgutil.walk_packages(words.__path__, f"{words.__name__}."):
        module = importlib.import_module(found.name)
        for thing in vars(module).values():
            if isinstance(thing, type) and is_dataclass(thing) and thing.__module__ == found.name:
                yield thing


SENTENCES = sorted(_all(), key=lambda sentence: sentence.__qualname__)
BY_KEEPER = (KeeperWelcome, StopFleet, SpawnDone, SpawnRefused, Exit)
every = pytest.mark.parametrize("sentence", SENTENCES, ids=lambda sentence: sentence.__name__)

json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=5,
)
PLAIN: dict[Any, st.SearchStrategy[Any]] = {
    Any: json_values,
    type(None): st.none(),
    bool: st.booleans(),
    int: st.integers(-(2**63), 2**63 - 1),
    float: st.floats(allow_nan=False, allow_infinity=False),
    str: st.text(),
    Path: st.text().map(Path),
}


def values(hint: Any) -> st.SearchStrategy[Any]:
    """Anything that a field of that type can hold."""
    if hint in PLAIN:
        return PLAIN[hint]
    if isinstance(hint, type) and is_dataclass(hint):
        return sentences(hint)
    if isinstance(hint, type) and issubclass(hint, enum.Enum):
        return st.sampled_from(list(hint))
    arguments = get_args(hint)
    if get_origin(hint) is types.UnionType:
        return st.one_of(*map(values, arguments))
    if get_origin(hint) is tuple and arguments[-1] is not Ellipsis:
        return st.tuples(*map(values, arguments))
    if get_origin(hint) is tuple:
        return st.lists(values(arguments[0]), max_size=3).map(tuple)
    assert get_origin(hint) is Mapping, f"how is {hint} written?"
    return st.dictionaries(*map(values, arguments), max_size=3)


def sentences(sentence: type[Any]) -> st.SearchStrategy[Any]:
    hints = get_type_hints(sentence)
    return st.builds(sentence, **{f.name: values(hints[f.name]) for f in fields(sentence)})


def sent(body: object) -> Any:
    """As it arrives at the other end of a link."""
    return json.loads(json.dumps(body, allow_nan=False))


def refusal(sentence: type[Any], body: object) -> str:
    """Why it is refused; all that a log could show of that repeats nothing."""
    with pytest.raises(ProtocolError) as refused:
        read(sentence, body)
    assert MARKER not in "".join(traceback.format_exception(refused.value))
    return str(refused.value)


def wrong(hint: Any) -> object:
    """What a field of that type cannot hold."""
    choices = get_args(hint) if get_origin(hint) is types.UnionType else (hint,)
    return {MARKER: [MARKER]} if {str, Path} & set(choices) else f"{MARKER} - at `$"


def test_there_are_sentences() -> None:
    assert len(SENTENCES) > 30
    assert {Hello, Will, Exit, KeeperWelcome} <= set(SENTENCES)


@every
@FEW
@given(data=st.data())
def test_what_is_said_is_what_is_heard(sentence: type[Any], data: st.DataObject) -> None:
    said = data.draw(sentences(sentence))
    assert read(sentence, sent(written(said))) == said


@pytest.mark.parametrize("sentence", BY_KEEPER)
@FEW
@given(data=st.data())
def test_the_keeper_which_writes_by_itself_is_heard_too(
    sentence: type[Any], data: st.DataObject
) -> None:
    said = data.draw(sentences(sentence))
    assert read(sentence, sent(asdict(said))) == said


@every
@FEW
@given(data=st.data())
def test_what_a_newer_writer_says_besides_is_passed_over(
    sentence: type[Any], data: st.DataObject
) -> None:
    said = data.draw(sentences(sentence))
    news = {"novelty": data.draw(json_values)}
    assert read(sentence, {**sent(written(said)), **news}) == said


@every
@FEW
@given(data=st.data())
def test_a_field_of_a_wrong_type_is_named_and_not_repeated(
    sentence: type[Any], data: st.DataObject
) -> None:
    body = sent(written(data.draw(sentences(sentence))))
    hints = get_type_hints(sentence)
    for name in (field.name for field in fields(sentence)):
        if hints[name] is Any:
            continue
        told = refusal(sentence, {**body, name: wrong(hints[name])})
        assert told.startswith(f"a malformed {sentence.__name__}: ")
        assert f"`$.{name}" in told


@every
@FEW
@given(data=st.data())
def test_a_field_that_is_missing_is_named(sentence: type[Any], data: st.DataObject) -> None:
    body = sent(written(data.draw(sentences(sentence))))
    for field in fields(sentence):
        if field.default is MISSING and field.default_factory is MISSING:
            rest = {name: value for name, value in body.items() if name != field.name}
            assert f"`{field.name}`" in refusal(sentence, rest)


@every
@pytest.mark.parametrize("body", [None, 5, MARKER, [MARKER], [{}]])
def test_what_is_no_object_is_refused(sentence: type[Any], body: object) -> None:
    assert "Expected `object`" in refusal(sentence, body)


@pytest.mark.parametrize("said", [MARKER, f"{MARKER}' - at `$.failure`", f"\n{MARKER}\n", ""])
def test_a_choice_that_is_not_known_is_not_repeated(said: str) -> None:
    """It may be as long as a frame, or go on as an error does."""
    told = refusal(Will, {"failure": said, "reason": "r"})
    assert told == "a malformed Will: Invalid enum value - at `$.failure`"


def test_who_is_told_what_he_does_not_know_says_who_he_is() -> None:
    knows = Vocabulary(Leave, MayServe)
    assert knows.read("leave", {}, "the bot") == Leave()
    assert knows.read("ready", {"about": {"port": 1}}, "the bot") == MayServe({"port": 1})
    with pytest.raises(RefusedError, match="the bot does not know 'teleport'") as refused:
        knows.read("teleport", {}, "the bot")
    assert "older" in str(refused.value.hint)
    with pytest.raises(ProtocolError, match="a malformed MayServe"):
        knows.read("ready", {"about": 1}, "the bot")


@dataclass(frozen=True)
class Placed:
    """A sentence that names a file."""

    path: Path


@dataclass(frozen=True)
class Odd:
    """One of a type that no sentence has."""

    number: complex


def test_a_path_is_a_text_on_the_wire() -> None:
    assert read(Placed, {"path": "/a"}) == Placed(Path("/a"))
    with pytest.raises(ProtocolError) as caught:
        read(Placed, {"path": 5})
    assert str(caught.value) == "a malformed Placed: Expected `str`, got `int` - at `$.path`"


def test_a_type_that_no_sentence_has_is_a_fault_of_ours() -> None:
    with pytest.raises(NotImplementedError):
        read(Odd, {"number": [1]})
