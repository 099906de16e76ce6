"""What becomes of a message in its mailbox: a try, a pause, an end, a dead letter. Pure and total.

Knows one message, what was noted of it and what just happened to it; refuses files, the ledger,
handlers and other messages. The counterpart that acts is `durable`. The values are msgspec's: they
are made for each message, a quarter of its cost as dataclasses.
"""

from __future__ import annotations

from msgspec import Struct
from msgspec.structs import replace

from dims.errors import DimsError, RefusedError, RemoteError
from dims.ipc.retry import RetryPolicy
from dims.ipc.wire.envelope import Envelope

TRY_AGAIN_S = 1.0
"""After a file or the ledger could not be used, for instance because the disk is full."""
EXPIRED = "expired"
INTERRUPTED = "the worker ended while it was in hand"


class Course(Struct, frozen=True):
    """A message that is the next of its lane, and how far it came.

    `failures` are the tries in vain so far. It may be tried from `due_s` on (UTC); 0: at any time.
    `is_doubtful` when it may have been in a handler's hands without anything being noted of it.
    """

    message: Envelope
    is_doubtful: bool = False
    failures: int = 0
    due_s: float = 0.0


# Facts


class Turn(Struct, frozen=True):
    """Its turn has come: for the first time, after a pause, or after a mishap of ours.

    `is_known` when it was settled or buried before; `was_in_hand` when the former reader ended with
    it in a handler's hands, and this is the first turn since; `is_permitted` and `has_handler` say
    what its recipient wants.
    """

    is_known: bool = False
    was_in_hand: bool = False
    is_permitted: bool = True
    has_handler: bool = True


class Handled(Struct, frozen=True):
    """The handler returned, and what it answers is noted. `is_settled`: a transaction did it."""

    is_settled: bool = False


class Raised(Struct, frozen=True):
    """The handler raised `error`, here as its asker is told of it.

    `is_hopeless` when another try cannot help; `is_settled` when its transaction ended well before,
    `is_answered` when that answered too; `trouble` says why nothing can be noted now, or is empty.
    """

    error: DimsError
    reason: str
    is_hopeless: bool = False
    is_settled: bool = False
    is_answered: bool = False
    trouble: str = ""


MailFact = Turn | Handled | Raised


# What is to be done at once


class NoteTry(Struct, frozen=True):
    """Keeps that it was tried in vain; `at_once` before anything else is done."""

    failures: int
    due_s: float
    reason: str
    at_once: bool = False


class ForgetTries(Struct, frozen=True):
    """What was noted of its tries is of no use any more."""


class Count(Struct, frozen=True):
    """Counts it under that name, for operators."""

    name: str


class Bury(Struct, frozen=True):
    """Makes it a dead letter."""

    attempts: int
    reason: str


class Respond(Struct, frozen=True):
    """Answers its asker with an error."""

    error: DimsError


class Settle(Struct, frozen=True):
    """It is done with, and kept so soon or `at_once`. `remembers` its id, if nothing else does."""

    remembers: bool = False
    at_once: bool = False


class Dispatch(Struct, frozen=True):
    """Keeps everything now, and sends the answer."""


MailOrder = NoteTry | ForgetTries | Count | Bury | Respond | Settle | Dispatch


# How it goes on


class Hand(Struct, frozen=True):
    """To the handler, as the try of that number, from 1 on; `is_again` if perhaps not the first."""

    attempt: int
    is_again: bool


class Pause(Struct, frozen=True):
    """Nothing for so long, and then another `Turn`. `trouble` says what else is to blame, if it is
    not the message."""

    pause_s: float
    trouble: str = ""


class Judgement(Struct, frozen=True):
    """The course from now on, what is to be done at once, in order, and `then`: nothing when the
    message is done with."""

    course: Course
    orders: tuple[MailOrder, ...] = ()
    then: Hand | Pause | None = None


def judge(
    course: Course, fact: MailFact, policy: RetryPolicy, now_s: float, draw: float
) -> Judgement:
    """What follows from `fact`; `now_s` is UTC, `draw` uniform in [0, 1)."""
    match fact:
        case Turn():
            return _turn(course, fact, policy, now_s)
        case Handled():
            return _end(course, is_settled=fact.is_settled)
        case Raised():
            return _raised(course, fact, policy, now_s, draw)


def _turn(course: Course, fact: Turn, policy: RetryPolicy, now_s: float) -> Judgement:
    message = course.message
    if fact.is_known:
        return Judgement(course, (Count("duplicates"), _settle(course)))
    # An answer is taken late or not: who asked knows whether it still waits, and nobody else wants
    # it.
    if message.reply_to is None:
        if message.expires_s is not None and message.expires_s <= now_s:
            # Who asked waits no longer.
            bury = Bury(course.failures, EXPIRED)
            return Judgement(course, (Count("expired"), bury, _settle(course)))
        refusal = _refusal(message, fact)
        if refusal:
            return _bury(course, course.failures, refusal, RefusedError(refusal))
    if fact.was_in_hand:
        return _interrupted(course, policy, now_s)
    return _next(course, policy, now_s)


def _refusal(message: Envelope, fact: Turn) -> str:
    """Why no handler gets it, or nothing."""
    if not fact.is_permitted:
        return f"no grant lets {message.sender} send {message.kind!r}"
    return "" if fact.has_handler else f"no handler for {message.kind!r}"


def _interrupted(course: Course, policy: RetryPolicy, now_s: float) -> Judgement:
    """That try counts, or a message that kills its worker would do so for ever."""
    failures = course.failures + 1
    if failures >= policy.attempts:
        return _bury(course, failures, INTERRUPTED, RemoteError(INTERRUPTED))
    # At once: the handler may not leave us the time afterwards. A pause that was noted before goes
    # on, for the next reader too.
    note = NoteTry(failures, max(course.due_s, now_s), INTERRUPTED, at_once=True)
    following = _next(replace(course, failures=failures), policy, now_s)
    return replace(following, orders=(note,))


def _next(course: Course, policy: RetryPolicy, now_s: float) -> Judgement:
    # No longer than any pause is: the clock may have been set back since that was noted.
    pause_s = min(course.due_s - now_s, policy.max_s)
    if pause_s > 0:
        return Judgement(replace(course, due_s=0.0), then=Pause(pause_s))
    hand = Hand(course.failures + 1, course.is_doubtful or course.failures > 0)
    return Judgement(course, then=hand)


def _raised(
    course: Course, fact: Raised, policy: RetryPolicy, now_s: float, draw: float
) -> Judgement:
    if fact.is_settled:
        return _end(course, None if fact.is_answered else fact.error, is_settled=True)
    if fact.trouble and not fact.is_hopeless:
        # A try that cannot be noted is not held against a message.
        pause = Pause(TRY_AGAIN_S, fact.trouble)
        return Judgement(replace(course, is_doubtful=True), then=pause)
    failures = course.failures + 1
    pause_s = None if fact.is_hopeless else policy.pause_s(failures, draw)
    if pause_s is None:
        return _bury(course, failures, fact.reason, fact.error)
    note = NoteTry(failures, now_s + pause_s, fact.reason)
    return Judgement(replace(course, failures=failures, due_s=0.0), (note,), Pause(pause_s))


def _end(course: Course, error: DimsError | None = None, *, is_settled: bool) -> Judgement:
    """Its handler is done with it: well or, after its transaction, with an error."""
    is_awaited = course.message.wants_reply
    orders: list[MailOrder] = []
    if is_awaited and error is not None:
        orders.append(Respond(error))
    if course.failures:
        orders.append(ForgetTries())
    if not is_settled:
        orders.append(_settle(course, remembers=True))
    if is_awaited:
        orders.append(Dispatch())
    return Judgement(course, tuple(orders))


def _bury(course: Course, attempts: int, reason: str, error: DimsError) -> Judgement:
    """No handler gets it any more; who waits for an answer is told."""
    orders: tuple[MailOrder, ...] = (Bury(attempts, reason), _settle(course))
    if course.message.wants_reply:
        orders = (Respond(error), *orders, Dispatch())
    return Judgement(course, orders)


def _settle(course: Course, *, remembers: bool = False) -> Settle:
    """What a crash has made doubtful is settled one by one, so that the message that causes the
    crashes is found."""
    return Settle(remembers, at_once=course.is_doubtful)
