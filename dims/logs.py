"""A process's log: one JSON object a line, rotated by size, without secrets.

Descriptors 1 and 2 point at the same file (whoever started us opened it), so prints of bot code
and stack dumps land there too. Rotation renames and reopens, and points both at the new file.
"""

from __future__ import annotations

import faulthandler
import io
import json
import logging
import os
import signal
import sys
import time
import traceback
from collections.abc import Mapping
from pathlib import Path

from dims import correlation
from dims.layout import PRIVATE_FILE

SERVICE_LOG_BYTES = 10_000_000
SERVICE_LOG_FILES = 3
"""As much as a bot gets by default."""
_STANDARD = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime"}


class Redactor:
    """Replaces secrets in texts."""

    def __init__(self, secrets: tuple[str, ...]) -> None:
        self._secrets: list[str] = []
        self.hide(secrets)

    def hide(self, secrets: tuple[str, ...]) -> None:
        """Replaces these too from now on, those so far as before."""
        forms = {form for secret in secrets for form in _written_forms(secret)}
        self._secrets = sorted(forms.union(self._secrets), key=len, reverse=True)

    def clean(self, text: str) -> str:
        """The text with every secret replaced by `***`."""
        for secret in self._secrets:
            text = text.replace(secret, "***")
        return text


def _written_forms(secret: str) -> tuple[str, ...]:
    """The secret itself, and as JSON and Python write it inside quotes."""
    return (secret, json.dumps(secret, ensure_ascii=False)[1:-1], repr(secret)[1:-1])


class JsonFormatter(logging.Formatter):
    """`at` (UTC), `level`, who (`bot` or `process`), `logger`, `message`, `error`, extra fields."""

    def __init__(self, who: Mapping[str, str], redactor: Redactor) -> None:
        super().__init__()
        self._who = who
        self.redactor = redactor

    def format(self, record: logging.LogRecord) -> str:
        """One line without line break."""
        moment = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        line = {
            "at": f"{moment}.{int(record.msecs):03d}Z",
            "level": record.levelname,
            **self._who,
            "logger": record.name,
            "message": record.getMessage(),
        }
        if (in_hand := correlation.current()) is not None:
            line["correlation"] = in_hand
        line.update({k: v for k, v in record.__dict__.items() if k not in _STANDARD})
        if record.exc_info:
            line["error"] = "".join(traceback.format_exception(*record.exc_info))
        return self.redactor.clean(json.dumps(line, ensure_ascii=False, default=str))


class RotatingLog(logging.Handler):
    """Appends to descriptor 2; once the file is full, renames it to `.1` and so on."""

    def __init__(self, path: Path, limit_bytes: int, files: int) -> None:
        super().__init__()
        self._path = path
        self._limit_bytes = limit_bytes
        self._files = files

    def emit(self, record: logging.LogRecord) -> None:
        """Writes one record; an error of the disk is reported the way logging reports it."""
        try:
            os.write(2, (self.format(record) + "\n").encode("utf-8", "replace"))
            self.rotate_if_full()
        except (OSError, ValueError, TypeError):
            self.handleError(record)

    def hide(self, secrets: tuple[str, ...]) -> None:
        """Keeps these out too from now on, of what is printed as well."""
        if isinstance(self.formatter, JsonFormatter):
            self.formatter.redactor.hide(secrets)

    def rotate_if_full(self) -> None:
        """Rotates a full file; called now and then too, because prints pass this handler by."""
        if os.fstat(2).st_size > self._limit_bytes:
            self._rotate()

    def _rotate(self) -> None:
        self._numbered(self._files).unlink(missing_ok=True)
        for number in range(self._files - 1, 0, -1):
            older = self._numbered(number)
            if older.exists():
                older.replace(self._numbered(number + 1))
        if self._path.exists():
            self._path.replace(self._numbered(1))
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
        descriptor = os.open(self._path, flags, PRIVATE_FILE)
        os.dup2(descriptor, 1)
        os.dup2(descriptor, 2)
        os.close(descriptor)

    def _numbered(self, number: int) -> Path:
        return self._path.with_name(f"{self._path.name}.{number}")


class CleanStream(io.TextIOBase):
    """What bot code prints: written line by line to a descriptor, without secrets.

    A line is held back until it is whole, so that a secret printed in pieces shows as one.
    """

    encoding = "utf-8"

    def __init__(self, descriptor: int, redactor: Redactor) -> None:
        super().__init__()
        self._descriptor = descriptor
        self._redactor = redactor
        self._line = ""

    def writable(self) -> bool:
        """As every output says."""
        return True

    def fileno(self) -> int:
        """The descriptor."""
        return self._descriptor

    def write(self, text: str, /) -> int:
        """Takes the text; whole lines are written at once."""
        lines, found, rest = (self._line + text).rpartition("\n")
        self._line = rest
        if found:
            self._put(lines + found)
        return len(text)

    def flush(self) -> None:
        """Writes an unfinished line as well."""
        rest, self._line = self._line, ""
        if rest:
            self._put(rest)

    def _put(self, text: str) -> None:
        os.write(self._descriptor, self._redactor.clean(text).encode("utf-8", "replace"))


def dump_stacks_on_signal() -> None:
    """SIGUSR1 writes the stacks of all threads to the log; the process goes on."""
    faulthandler.register(signal.SIGUSR1, file=2, all_threads=True, chain=False)


def log_to_file(
    bot: str, path: Path, secrets: tuple[str, ...], limits: tuple[int, int]
) -> RotatingLog:
    """All loggers write to the bot's file; `limits` is (bytes per file, older files kept)."""
    log = RotatingLog(path, *limits)
    log.setFormatter(_clean_output(bot, secrets))
    _install(log)
    return log


def log_to_terminal(bot: str, secrets: tuple[str, ...]) -> None:
    """All loggers write to standard error, for `dims run`."""
    _clean_output(bot, secrets)
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Plain(Redactor(secrets)))
    _install(handler)


def log_service(process: str, path: Path | None) -> None:
    """All loggers of a process that is no bot write to its file, or without one to descriptor 2."""
    handler: logging.Handler = logging.StreamHandler(sys.stderr)
    if path is not None:
        handler = RotatingLog(path, SERVICE_LOG_BYTES, SERVICE_LOG_FILES)
    handler.setFormatter(JsonFormatter({"process": process}, Redactor(())))
    _install(handler)


class _Plain(logging.Formatter):
    def __init__(self, redactor: Redactor) -> None:
        super().__init__("%(asctime)s %(levelname)-7s %(name)s: %(message)s")
        self._redactor = redactor

    def format(self, record: logging.LogRecord) -> str:
        return self._redactor.clean(super().format(record))


def _clean_output(bot: str, secrets: tuple[str, ...]) -> JsonFormatter:
    """Makes prints clean too; returns the formatter for the log proper."""
    redactor = Redactor(secrets)
    sys.stdout, sys.stderr = CleanStream(1, redactor), CleanStream(2, redactor)
    return JsonFormatter({"bot": bot}, redactor)


def _install(handler: logging.Handler) -> None:
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.INFO)
    # Telethon tells of each connection and disconnection: the supervisor's events say it better.
    logging.getLogger("telethon").setLevel(logging.WARNING)


REASON_LIMIT = 500


def one_line(text: str) -> str:
    """The text in one line of bounded length: reasons travel, are stored and shown in tables.

    Nothing in it steers a terminal: a worker runs foreign code.
    """
    line = " ".join(text.split())
    if not line.isprintable():
        line = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in line)
    return line if len(line) <= REASON_LIMIT else line[: REASON_LIMIT - 1] + "…"
