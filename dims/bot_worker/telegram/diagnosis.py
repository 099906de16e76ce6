"""Why a bot cannot go on, from the errors of Telethon and of the bot's own code. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from telethon import errors

from dims.ipc.words.failures import FailureClass


@dataclass(frozen=True, slots=True)
class Failure:
    """A class, one line for the operator, and Telegram's wait in seconds if any."""

    kind: FailureClass
    reason: str
    retry_after_s: float = 0.0


class WorkerFailedError(Exception):
    """The worker must leave for the reason in `failure`."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.reason)
        self.failure = failure


_TOKEN = "get a valid token from @BotFather and put it into bots.yaml"  # noqa: S105 (advice)
_GIVEN_UP = (
    (errors.AccessTokenInvalidError, f"Telegram does not know this token: {_TOKEN}"),
    (errors.AccessTokenExpiredError, f"the token was revoked: {_TOKEN}"),
    (errors.UserDeactivatedBanError, "the account is banned"),
    (errors.UserDeactivatedError, "the account was deleted"),
    (errors.ApiIdInvalidError, "api_id and api_hash do not belong together: see my.telegram.org"),
    (errors.ApiIdPublishedFloodError, "this api_id is public and blocked: get your own"),
)


def classify(error: BaseException) -> Failure:
    """The failure that `error` means at login or in a health call."""
    if isinstance(error, WorkerFailedError):
        return error.failure
    if isinstance(error, errors.FloodWaitError):
        seconds = float(error.seconds)
        return Failure(
            FailureClass.WAIT,
            f"Telegram asks to wait {seconds:.0f} s before the next login",
            seconds,
        )
    if isinstance(error, errors.AuthKeyDuplicatedError):
        reason = "the same session was used from two places at once; its key is burnt"
        return Failure(FailureClass.FENCED, reason)
    for kind, reason in _GIVEN_UP:
        if isinstance(error, kind):
            return Failure(FailureClass.NEEDS_OPERATOR, reason)
    if isinstance(error, errors.UnauthorizedError | errors.AuthKeyNotFound):
        # The key is gone on the server's side. A bot can always make a new one from its token.
        return Failure(
            FailureClass.FENCED, f"the session was ended by Telegram ({type(error).__name__})"
        )
    if isinstance(error, errors.ServerError | errors.InvalidDCError):
        return Failure(FailureClass.NETWORK, f"Telegram has an internal problem: {error}")
    if isinstance(error, TimeoutError):
        return Failure(FailureClass.NETWORK, "Telegram did not answer in time")
    if isinstance(error, ConnectionError | OSError):
        return Failure(FailureClass.NETWORK, f"no connection to Telegram: {error}")
    return Failure(FailureClass.CRASH, f"{type(error).__name__}: {error}")
