"""One alarm while datagrams without the key keep coming, and none for a single one."""

from __future__ import annotations

from agents.strangers import QUIET_REPORTS, Strangers


def test_one_alarm_while_they_come_and_ten_quiet_seconds_end_it() -> None:
    strangers = Strangers()
    assert strangers.look(1_000) == "", "an agent that has just started does not know since when"
    assert strangers.look(1_004) == ""
    text = strangers.look(1_014)
    assert "another site.key" in text
    for n in range(QUIET_REPORTS - 1):
        assert strangers.look(1_014 + n) == text
    assert strangers.look(1_030) == text, "again, before it had ended"
    for _ in range(QUIET_REPORTS - 1):
        assert strangers.look(1_030) == text
    assert strangers.look(1_030) == ""


def test_a_new_keeper_counts_from_zero() -> None:
    strangers = Strangers()
    assert strangers.look(50) == strangers.look(0) == strangers.look(3) == ""
    assert strangers.look(8)
