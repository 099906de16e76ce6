"""Coverage-guided fuzzing of all that reads bytes of others: frames, records, whole segment files.

    python benchmarks/fuzz_mail.py [--seconds 600] [--seed 1] [--corpus DIRECTORY]

Needs atheris (the `bench` extra). The first byte of an input chooses the target:

- frames: the same envelopes and the same end, however a stream is split; only ProtocolError.
- records: what is found is there byte for byte; what is cut says what it needs; `resume` is right.
- lane: an open Mailbox reads a segment file of arbitrary bytes with sound messages behind them, in
  one go or while its writer lives, with or without a new reader in the middle. Every byte is given
  out once, as a message that checks or as damage, and the sound messages come.
- mutants: as lane, of a valid stream with one or two bytes changed: nothing comes that was not
  packed.

Prints what libFuzzer counted; exits with 1 after a failure, whose input is kept.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import re
import shutil
import struct
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["dims.ipc", "json"]):
    from dims.errors import ProtocolError, StateError
    from dims.ipc.mailbox.files import records
    from dims.ipc.mailbox.files.file_names import Writer
    from dims.ipc.mailbox.files.mailbox import Mailbox
    from dims.ipc.mailbox.files.records import HEAD, Rest
    from dims.ipc.mailbox.files.segment import SegmentWriter
    from dims.ipc.wire.envelope import Address, Envelope, Priority
    from dims.ipc.wire.framing import FrameDecoder, encode, encode_payload
    from dims.ipc.wire.ids import new_id

FRAMES, RECORDS, LANE, MUTANTS = range(4)
TARGETS = ("frames", "records", "lane", "mutants")
WITH_HEAD, WHILE_WRITING, NEW_READER = 1, 2, 4
LONGEST_BYTES = 80_000
SOUND = 3
_CHANGE = struct.Struct(">IB")


def message(number: int, size: int = 0) -> Envelope:
    """One of the messages that valid streams are made of."""
    body = {"number": number, "pad": "ä" * (size // 2)}
    return Envelope(new_id(), "k", Address("al"), Address("bob"), Priority(number % 4), body=body)


# Larger than what a lane looks at in one go, smaller, and in between.
PAYLOADS = [encode_payload(message(n, size)) for n, size in enumerate((0, 40_000, 10, 700, 0, 90))]


def frames(data: bytes) -> None:
    """A decoder that is fed all at once against one that is fed in pieces."""
    size = data[0] + 1
    whole, pieces = FrameDecoder(LONGEST_BYTES), FrameDecoder(LONGEST_BYTES)
    stream = data[1:]
    expected, broken = _fed(whole, [stream])
    found, broken_too = _fed(pieces, [stream[i : i + size] for i in range(0, len(stream), size)])
    assert broken == broken_too
    # A stream that breaks gives what came whole in the chunks before: all at once, that is nothing.
    assert found == expected or (broken and not expected)
    for envelope in found:
        again = FrameDecoder(2 * LONGEST_BYTES).feed(encode(envelope))
        assert again == [envelope]
    if not broken:
        assert whole.pending_bytes == pieces.pending_bytes <= LONGEST_BYTES + 6


def _fed(decoder: FrameDecoder, chunks: list[bytes]) -> tuple[list[Envelope], bool]:
    found: list[Envelope] = []
    for chunk in chunks:
        try:
            found += decoder.feed(chunk)
        except ProtocolError:
            return found, True
    return found, False


def scans(data: bytes) -> None:
    """What `scan`, `resume` and `count` say of bytes."""
    limit, start = data[0] % 8 + 1, data[1]
    stream = data[2:]
    start = min(start, len(stream))
    found = records.scan(stream, start, limit)
    at = start
    for payload, end in found.payloads:
        record = records.pack(payload)
        assert stream[at:end] == record
        at = end
    assert found.position == at
    if len(found.payloads) < limit:
        assert (found.rest is Rest.NOTHING) == (at == len(stream))
        assert (found.rest is Rest.CUT) == (found.needs_bytes > len(stream) - at)
    shorter = records.scan(stream[: len(stream) // 2], start, limit).payloads
    if start <= len(stream) // 2:
        assert found.payloads[: len(shorter)] == shorter
    first = records.resume(stream, start)
    if first is None:
        assert not found.payloads
    else:
        assert first >= start
        assert records.scan(stream, first, 1).payloads
        assert not found.payloads or first == start
    counted = list(records.count(stream, start))
    assert len(counted) >= len(records.scan(stream, start).payloads)


class Room:
    """One mailbox for all inputs, opened anew when an input wants it."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory / "bob"
        self.mailbox = Mailbox(self.directory)

    def read(self, data: bytes, flags: int) -> tuple[list[bytes], list[bytes]]:
        """Puts bytes and then sound messages into a file and reads it to its end; the sound
        payloads, and those that came."""
        segment = SegmentWriter.create(self.directory, Writer("al"), Priority.LOW)
        if not flags & WITH_HEAD:
            # The file as it is without the head that its writer has written.
            descriptor = segment._descriptor  # noqa: SLF001
            os.ftruncate(descriptor, 0)
            os.lseek(descriptor, 0, os.SEEK_SET)
        segment.append(data)
        self.content = (HEAD if flags & WITH_HEAD else b"") + data
        self.at = len(HEAD) if self.content.startswith(HEAD) else 0
        self.name = segment.path.name
        came: list[bytes] = []
        if flags & WHILE_WRITING:
            for _ in range(3):
                came += self._take(flags)
        sound = [encode_payload(message(n)) for n in range(SOUND)]
        behind = b"".join(map(records.pack, sound))
        segment.append(behind)
        self.content += behind
        if not flags & WITH_HEAD and not self.at and self.content.startswith(HEAD):
            self.at = len(HEAD)
        segment.close()
        came += self._take(flags)
        assert self.at == len(self.content), f"{len(self.content) - self.at} bytes did not come"
        assert self.mailbox.sweep()
        assert not segment.path.exists()
        assert not self.mailbox.ledger.segments()
        return sound, came

    def _take(self, flags: int) -> list[bytes]:
        """All that comes now."""
        came = []
        lanes = self.mailbox.notice([self.name])
        while lanes:
            item = lanes[0].next()
            if item is None:
                break
            gone, self.at = self.content[self.at : item.end], item.end
            assert gone, "no progress"
            if item.damage:
                assert gone == item.payload
            else:
                assert gone == records.pack(item.payload)
                came.append(item.payload)
            self.mailbox.settle(item, None)
            if flags & NEW_READER and len(came) % 2:
                self.mailbox.close()
                self.mailbox = Mailbox(self.directory)
                lanes = self.mailbox.scan()
        return came


def lane(room: Room, data: bytes) -> None:
    """Sound messages come, whatever stands before them."""
    sound, came = room.read(data[1:], data[0])
    assert came[-SOUND:] == sound


def mutants(room: Room, data: bytes) -> None:
    """Only what was packed comes, in order; and all of it that no change has touched."""
    stream = bytearray(b"".join(map(records.pack, PAYLOADS)))
    changed: set[int] = set()
    for at in range(1, min(len(data), 2 * _CHANGE.size) - _CHANGE.size + 2, _CHANGE.size):
        if at + _CHANGE.size <= len(data):
            position, mask = _CHANGE.unpack_from(data, at)
            stream[position % len(stream)] ^= mask
            changed.add(position % len(stream))
    expected, end = [], 0
    for payload in PAYLOADS:
        start, end = end, end + records.HEADER.size + len(payload)
        if bytes(stream[start:end]) == records.pack(payload):
            expected.append(payload)
    sound, came = room.read(bytes(stream), data[0] | WITH_HEAD)
    assert came == expected + sound


def seeds() -> list[bytes]:
    """Inputs made of valid streams, whole, cut and with something between."""
    stream = b"".join(encode(message(n, 20 * n)) for n in range(4))
    packed = [records.pack(payload) for payload in PAYLOADS]
    small = packed[0] + packed[2] + packed[4]
    found = [bytes([FRAMES, size]) + stream for size in (0, 6, 255)]
    found += [bytes([FRAMES, 9]) + stream[:-7], bytes([FRAMES, 9]) + stream[:200] + b"x" + stream]
    for bad in (b"", b"D", b"DR", b"garbage", b"DR\0\0\0\x20", packed[0][:-9], packed[1][:50]):
        body = packed[2] + bad + small
        found.append(bytes([RECORDS, 7, 0]) + body)
        found += [bytes([LANE, flags]) + body for flags in range(8)]
        found += [bytes([LANE, flags]) + bad for flags in range(8)]
    found += [bytes([LANE, flags]) + HEAD + small for flags in (0, 2)]
    # A message that is larger than one look, and does not check.
    large = bytearray(packed[1])
    large[30_000] ^= 1
    found += [bytes([LANE, flags]) + bytes(large) + small for flags in (1, 3)]
    ends = [sum(map(len, packed[:n])) for n in range(len(packed))]
    for flags in range(0, 8, 2):
        found += [bytes([MUTANTS, flags]) + _CHANGE.pack(end + 5, 1) for end in ends]
        found += [bytes([MUTANTS, flags]) + _CHANGE.pack(end + 9, 128) * 2 for end in ends]
    return found


def fuzz(work: Path, arguments: list[str]) -> None:
    """Runs libFuzzer in this process, which it ends."""
    room = Room(work)
    executions = dict.fromkeys(TARGETS, 0)
    shown_s = time.monotonic()

    def one(data: bytes) -> None:
        nonlocal shown_s
        if len(data) < 4:
            return
        target, rest = data[0] % 4, data[1:]
        executions[TARGETS[target]] += 1
        if time.monotonic() - shown_s > 1.0:
            shown_s = time.monotonic()
            (work / "executions.json").write_text(json.dumps(executions))
        if target == FRAMES:
            frames(rest)
        elif target == RECORDS:
            scans(rest)
        else:
            try:
                (lane if target == LANE else mutants)(room, rest)
            except (ProtocolError, StateError):
                room.mailbox.close()
                shutil.rmtree(room.directory)
                room.mailbox = Mailbox(room.directory)

    logging.disable(logging.CRITICAL)
    atheris.Setup([sys.argv[0], *arguments], one)
    atheris.Fuzz()


def main() -> int:
    """0 when nothing was found."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seconds", type=int, default=600)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--corpus", type=Path, help="kept there, and used again")
    parser.add_argument("--input", type=Path, help="runs this one input only")
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    options, rest = parser.parse_known_args()
    if options.child:
        fuzz(options.child, rest)
    with tempfile.TemporaryDirectory(prefix="dims-fuzz-", dir="/dev/shm") as work:
        corpus = options.corpus or Path(work, "corpus")
        corpus.mkdir(parents=True, exist_ok=True)
        for number, seed in enumerate(seeds()):
            (corpus / f"seed-{number}").write_bytes(seed)
        failures = Path(tempfile.mkdtemp(prefix="dims-fuzz-failures-"))
        limits = [f"-max_len={LONGEST_BYTES}", "-timeout=20", "-rss_limit_mb=2048"]
        goal = (
            [str(options.input)]
            if options.input
            else [f"-max_total_time={options.seconds}", "-print_final_stats=1", str(corpus)]
        )
        command = [sys.executable, __file__, "--child", work, *limits, f"-seed={options.seed}"]
        log = Path(failures, "log.txt")
        with log.open("w") as file:
            code = subprocess.run(
                [*command, f"-artifact_prefix={failures}/", *goal],
                stdout=file,
                stderr=subprocess.STDOUT,
                check=False,
            ).returncode
        said = log.read_text("utf-8", "replace")
        counts = Path(work, "executions.json")
        by_target = json.loads(counts.read_text()) if counts.exists() else {}
    found = sorted(path for path in failures.iterdir() if path != log)
    states = re.findall(r"^#\d+\s.*?cov: (\d+) ft: (\d+) corp: (\d+)", said, re.MULTILINE)
    edges, features, inputs = states[-1] if states else ("-", "-", "-")
    units = re.search(r"stat::number_of_executed_units:\s*(\d+)", said)
    print(f"seconds        {options.seconds}")
    print(f"executions     {units[1] if units else '-'}")
    for name, number in by_target.items():
        print(f"  {name:<13}{number}")
    print(f"edges          {edges}\nfeatures       {features}\ninputs kept    {inputs}")
    print(f"failures       {len(found)}")
    if code or found:
        print(said[-6000:])
        print(f"see {failures}")
        return 1
    shutil.rmtree(failures)
    return 0


if __name__ == "__main__":
    sys.exit(main())
