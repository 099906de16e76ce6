"""Small text files read with care: bots.yaml itself and the token files beside it.

Knows sizes, modes and encodings; refuses what is no regular file, so that nothing blocks.
"""

from __future__ import annotations

import stat
from pathlib import Path

from dims.config.text.document import MOST_BYTES
from dims.errors import ConfigError

TOKEN_FILE_BYTES = 4_096
PUBLIC_KEY_HEAD = b"-----BEGIN RSA PUBLIC KEY-----"
HOW_TO_BEGIN = (
    "write this line into it to begin: "
    "{telegram: {server: sandbox}, bots: [{id: echo, handlers: examples/echo.py}]}"
)


def read_config_text(path: Path) -> str:
    """The text of bots.yaml, or `ConfigError` when it cannot be read as one."""
    fault = _not_a_file(path)
    if fault:
        raise ConfigError(
            [f"{path}: {fault}"], hint=HOW_TO_BEGIN if fault == "does not exist" else ""
        )
    raw = _read(path, MOST_BYTES)
    if isinstance(raw, str):
        raise ConfigError([f"{path}: {raw}"])
    if len(raw) > MOST_BYTES:
        raise ConfigError([f"{path}: larger than {MOST_BYTES:,} bytes"])
    bad_at = _not_utf8_at(raw)
    if bad_at is not None:
        line = raw.count(b"\n", 0, bad_at) + 1
        column = bad_at - (raw.rfind(b"\n", 0, bad_at) + 1) + 1
        raise ConfigError([f"{path.name}:{line}:{column}: is not UTF-8 text; save it as UTF-8"])
    return raw.decode("utf-8-sig")


def read_token(path: Path) -> tuple[str, str]:
    """(token, "") from a token file, or ("", what is wrong with the file)."""
    if fault := _not_a_file(path):
        return "", fault
    raw = _read(path, TOKEN_FILE_BYTES)
    if isinstance(raw, str):
        return "", raw
    token = raw.decode("utf-8-sig", errors="replace").strip()
    return token, _mode_fault(path) or _content_fault(raw, token)


def _mode_fault(path: Path) -> str:
    mode = stat.S_IMODE(path.stat().st_mode)
    if mode & stat.S_IROTH:
        return f"has mode {mode:04o}: anyone on this machine can read it; chmod 600 {path}"
    return ""


def _content_fault(raw: bytes, token: str) -> str:
    if not token:
        return "is empty; put the bot's token into it"
    if len(raw) > TOKEN_FILE_BYTES or len(token.split()) > 1 or not token.isprintable():
        return "holds more than one word; keep only the token"
    return "" if _not_utf8_at(raw) is None else "is not UTF-8 text; put only the token into it"


def public_key_fault(path: Path) -> str:
    """What is wrong with a server's public key file, or an empty text."""
    if fault := _not_a_file(path):
        return fault
    raw = _read(path, TOKEN_FILE_BYTES)
    if isinstance(raw, str):
        return raw
    if not raw.lstrip().startswith(PUBLIC_KEY_HEAD):
        return f"must hold a PKCS#1 key that begins with {PUBLIC_KEY_HEAD.decode()}"
    return ""


def tls_file_fault(path: Path, *, is_key: bool) -> str:
    """What is wrong with a file of certificates or a private key, or an empty text."""
    if fault := _not_a_file(path):
        return fault
    raw = _read(path, 0)
    if isinstance(raw, str):
        return raw
    return _mode_fault(path) if is_key else ""


def _not_a_file(path: Path) -> str:
    try:
        mode = path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        return "does not exist"
    except (OSError, ValueError) as error:
        return f"cannot be read: {getattr(error, 'strerror', None) or error}"
    if stat.S_ISDIR(mode):
        return "is a directory, not a file"
    return "" if stat.S_ISREG(mode) else "is not a regular file"


def _read(path: Path, limit_bytes: int) -> bytes | str:
    """At most one byte more than the limit, or the reason why not."""
    try:
        with path.open("rb") as file:
            return file.read(limit_bytes + 1)
    except OSError as error:
        return f"cannot be read: {error.strerror}"


def _not_utf8_at(raw: bytes) -> int | None:
    try:
        raw.decode("utf-8")
    except UnicodeDecodeError as error:
        return error.start
    return None
