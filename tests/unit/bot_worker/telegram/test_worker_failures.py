"""What each error of Telegram and Telethon means for the bot."""

from __future__ import annotations

import pytest
from telethon import errors

from dims.bot_worker.telegram.diagnosis import Failure, WorkerFailedError, classify
from dims.errors import DimsError
from dims.ipc.words.failures import FailureClass


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (errors.AuthKeyDuplicatedError(None), FailureClass.FENCED),
        (errors.AuthKeyUnregisteredError(None), FailureClass.FENCED),
        (errors.SessionRevokedError(None), FailureClass.FENCED),
        (errors.AuthKeyNotFound(), FailureClass.FENCED),
        (errors.AccessTokenInvalidError(None), FailureClass.NEEDS_OPERATOR),
        (errors.AccessTokenExpiredError(None), FailureClass.NEEDS_OPERATOR),
        (errors.UserDeactivatedBanError(None), FailureClass.NEEDS_OPERATOR),
        (errors.UserDeactivatedError(None), FailureClass.NEEDS_OPERATOR),
        (errors.ApiIdInvalidError(None), FailureClass.NEEDS_OPERATOR),
        (errors.ServerError(None, "INTERNAL"), FailureClass.NETWORK),
        (TimeoutError(), FailureClass.NETWORK),
        (ConnectionError("reset"), FailureClass.NETWORK),
        (OSError("no route"), FailureClass.NETWORK),
        (RuntimeError("a bug"), FailureClass.CRASH),
        (DimsError("ours"), FailureClass.CRASH),
    ],
)
def test_each_error_has_its_class_and_a_reason(error: Exception, kind: FailureClass) -> None:
    failure = classify(error)
    assert FailureClass(failure.kind) is kind
    assert failure.reason
    assert "\n" not in failure.reason
    assert failure.retry_after_s == 0


def test_a_flood_wait_says_how_long() -> None:
    failure = classify(errors.FloodWaitError(None, capture=1600))
    assert FailureClass(failure.kind) is FailureClass.WAIT
    assert failure.retry_after_s == 1600
    assert "1600 s" in failure.reason


def test_a_verdict_of_our_own_passes_as_it_is() -> None:
    failure = Failure(FailureClass.DEAF, "no updates")
    assert classify(WorkerFailedError(failure)) is failure
    assert str(WorkerFailedError(failure)) == "no updates"


def test_silence_is_told_from_a_network_that_is_away() -> None:
    assert classify(TimeoutError()).reason == "Telegram did not answer in time"
    assert classify(OSError("no route")).reason != classify(TimeoutError()).reason
