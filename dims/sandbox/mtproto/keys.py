"""The server's RSA key: made once, kept in two PEM files. Knows DER and primes, nothing of MTProto.

The key has three primes (RFC 8017, multi-prime RSA; OpenSSL reads it). To a client it is an
ordinary 2048-bit key; for us a third of the width makes generation four times faster than two
primes would be in pure Python, and decryption twice as fast.
"""

from __future__ import annotations

import base64
import hashlib
import math
import os
import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from dims.errors import StateError

KEY_BITS = 2048
PUBLIC_EXPONENT = 65_537
PRIME_COUNT = 3
SIEVE_LIMIT = 20_000
"""Small primes up to here sift candidates before the costly test; more cost more than they save."""
WITNESSES = 8
"""Miller-Rabin rounds; random candidates of this size fail with probability below 2**-80."""


@dataclass(frozen=True, slots=True)
class ServerKey:
    """An RSA key with any number of primes; `repr` shows the fingerprint only."""

    modulus: int
    exponent: int
    primes: tuple[int, ...]

    def __repr__(self) -> str:
        return f"ServerKey(fingerprint={self.fingerprint})"

    @property
    def fingerprint(self) -> int:
        """The lower 64 bits of SHA1 over the TL strings n and e, signed (MTProto, auth_key)."""
        raw = _tl_bytes(_big_endian(self.modulus)) + _tl_bytes(_big_endian(self.exponent))
        return int.from_bytes(hashlib.sha1(raw).digest()[-8:], "little", signed=True)  # noqa: S324

    def decrypt(self, cipher: bytes) -> bytes:
        """The 256 bytes before encryption; raises ValueError when `cipher` is not below n."""
        value = int.from_bytes(cipher, "big")
        if value >= self.modulus:
            raise ValueError("the cipher text is larger than the modulus")
        # Garner's Chinese remainders: three short powers instead of one long one.
        plain, product = 0, 1
        for prime in self.primes:
            part = pow(value % prime, pow(self.exponent, -1, prime - 1), prime)
            plain += product * ((part - plain) * pow(product, -1, prime) % prime)
            product *= prime
        return plain.to_bytes(KEY_BITS // 8, "big")

    def public_pem(self) -> str:
        """PKCS#1 "RSA PUBLIC KEY", as `telethon.crypto.rsa.add_key` wants it."""
        return _pem("RSA PUBLIC KEY", _der_sequence(self.modulus, self.exponent))

    def private_pem(self) -> str:
        """PKCS#1 "RSA PRIVATE KEY", version 1 (multi-prime)."""
        private = pow(self.exponent, -1, math.lcm(*(prime - 1 for prime in self.primes)))
        first, second, *others = self.primes
        rest, product = b"", first * second
        for prime in others:
            rest += _der_sequence(prime, private % (prime - 1), pow(product, -1, prime))
            product *= prime
        numbers = (
            1,
            self.modulus,
            self.exponent,
            private,
            first,
            second,
            private % (first - 1),
            private % (second - 1),
            pow(second, -1, first),
        )
        body = b"".join(map(_der_integer, numbers)) + _der(0x30, rest)
        return _pem("RSA PRIVATE KEY", _der(0x30, body))

    @classmethod
    def from_private_pem(cls, pem: str) -> Self:
        """The key in a PEM that `private_pem` wrote; raises ValueError on anything else."""
        lines = [line for line in pem.splitlines() if line and not line.startswith("-----")]
        numbers = _der_integers(base64.b64decode("".join(lines), validate=True))
        if len(numbers) != 9 + 3 * (PRIME_COUNT - 2) or numbers[0] != 1:
            raise ValueError("not a multi-prime RSA private key")
        primes = (numbers[4], numbers[5], *numbers[9::3])
        if math.prod(primes) != numbers[1]:
            raise ValueError("the primes do not give the modulus")
        return cls(numbers[1], numbers[2], primes)


def generate() -> ServerKey:
    """A new key; takes 0.05 to 0.15 s."""
    while True:
        bits = (683, 683, 682)
        primes = tuple(_prime(width) for width in bits)
        modulus = math.prod(primes)
        if len(set(primes)) == PRIME_COUNT and modulus.bit_length() == KEY_BITS:
            return ServerKey(modulus, PUBLIC_EXPONENT, primes)


def load_or_make(directory: Path) -> ServerKey:
    """The key in `directory`, made if there is none; writes `key.pem` (0600) and `public.pem`.

    Raises StateError when `key.pem` is there but is no key of ours.
    """
    private_file, public_file = directory / "key.pem", directory / "public.pem"
    try:
        key = ServerKey.from_private_pem(private_file.read_text("ascii"))
    except FileNotFoundError:
        key = generate()
        write_file(private_file, key.private_pem(), 0o600)
    except (ValueError, IndexError) as error:
        raise StateError(
            f"{private_file} is no key of the sandbox: {error}",
            hint="remove it: a new one is made, and bots log in again",
        ) from error
    write_file(public_file, key.public_pem(), 0o644)
    return key


def write_file(path: Path, text: str, mode: int) -> None:
    """Replaces `path` in one step, so that a reader sees the old text or the new one."""
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, mode)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        os.fchmod(file.fileno(), mode)
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)


def _small_primes() -> tuple[int, ...]:
    sieve = bytearray([1]) * SIEVE_LIMIT
    for number in range(2, math.isqrt(SIEVE_LIMIT) + 1):
        if sieve[number]:
            sieve[number * number :: number] = bytes(
                len(range(number * number, SIEVE_LIMIT, number))
            )
    return tuple(number for number in range(3, SIEVE_LIMIT) if sieve[number])


def _prime(bits: int) -> int:
    # The upper bits are set so that the product has its full width; a window of odd numbers
    # from a random start is sifted by small primes first.
    window = 4096
    small = _small_primes()
    while True:
        start = secrets.randbits(bits) | (0b111 << (bits - 3)) | 1
        composite = bytearray(window)
        for prime in small:
            offset = (-start * pow(2, -1, prime)) % prime
            composite[offset::prime] = b"\1" * len(range(offset, window, prime))
        for index in range(window):
            candidate = start + 2 * index
            if (
                not composite[index]
                and candidate.bit_length() == bits
                and candidate % PUBLIC_EXPONENT != 1
                and _is_prime(candidate)
            ):
                return candidate


def _is_prime(number: int) -> bool:
    if pow(2, number - 1, number) != 1:
        return False
    twos = ((number - 1) & -(number - 1)).bit_length() - 1
    for _ in range(WITNESSES):
        value = pow(secrets.randbelow(number - 3) + 2, number >> twos, number)
        if value in (1, number - 1):
            continue
        for _ in range(twos - 1):
            value = value * value % number
            if value == number - 1:
                break
        else:
            return False
    return True


def _big_endian(number: int) -> bytes:
    return number.to_bytes((number.bit_length() + 7) // 8, "big")


def _tl_bytes(data: bytes) -> bytes:
    head = bytes([len(data)]) if len(data) < 254 else b"\xfe" + len(data).to_bytes(3, "little")
    return head + data + bytes(-(len(head) + len(data)) % 4)


def _pem(label: str, der: bytes) -> str:
    text = base64.b64encode(der).decode("ascii")
    lines = [text[start : start + 64] for start in range(0, len(text), 64)]
    return "\n".join([f"-----BEGIN {label}-----", *lines, f"-----END {label}-----", ""])


def _der(tag: int, body: bytes) -> bytes:
    length = len(body)
    if length < 128:
        return bytes([tag, length]) + body
    size = _big_endian(length)
    return bytes([tag, 0x80 | len(size)]) + size + body


def _der_integer(number: int) -> bytes:
    return _der(0x02, number.to_bytes(number.bit_length() // 8 + 1, "big"))


def _der_sequence(*numbers: int) -> bytes:
    return _der(0x30, b"".join(map(_der_integer, numbers)))


def _der_integers(der: bytes) -> list[int]:
    """All integers in order; sequences are entered, whatever their depth."""
    numbers: list[int] = []
    position = 0
    while position < len(der):
        tag, length = der[position], der[position + 1]
        position += 2
        if length & 0x80:
            size = length & 0x7F
            length = int.from_bytes(der[position : position + size], "big")
            position += size
        if tag == 0x30:
            continue
        if tag != 0x02 or position + length > len(der):
            raise ValueError("not a DER sequence of integers")
        numbers.append(int.from_bytes(der[position : position + length], "big"))
        position += length
    return numbers
