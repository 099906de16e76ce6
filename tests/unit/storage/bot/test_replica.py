"""When a bot reads its replica."""

from __future__ import annotations

from dims.storage.bot.replica import PAUSE_S, ReplicaUse


def test_a_bot_that_wrote_nothing_reads_the_replica() -> None:
    assert ReplicaUse(2.0).may_read(0.0)


def test_after_a_write_the_primary_is_read_until_the_replica_has_caught_up() -> None:
    use = ReplicaUse(2.0)
    use.wrote(10.0)
    assert not use.may_read(11.9)
    assert use.may_read(12.0)
    use.wrote(12.0)
    use.wrote(13.0)
    assert not use.may_read(14.9)


def test_a_replica_that_failed_is_left_alone_and_its_failure_is_news_once() -> None:
    use = ReplicaUse(2.0)
    assert use.failed(0.0)
    assert not use.may_read(PAUSE_S - 0.1)
    assert use.may_read(PAUSE_S)
    assert not use.failed(PAUSE_S)
    assert use.answered()
    assert not use.answered()
    assert use.failed(2 * PAUSE_S)
