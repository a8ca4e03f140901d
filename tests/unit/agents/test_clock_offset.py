"""What the kernel, chrony and an NTP server say of the clock, from recorded and made-up answers."""

from __future__ import annotations

import struct

import pytest

from agents.checks import clock_offset
from agents.checks.clock_offset import Offset
from controlplane.errors import InvalidInput
from controlplane.model.checks import ClockCheck

CHECK = ClockCheck(name="clock", warning_ms=0.5, critical_ms=2)
CHRONY = (
    "A9FEA97B,169.254.169.123,4,1764457801.512345678,-0.000001512,0.000000871,0.000012005,"
    "-21.604,0.001,0.043,0.000211334,0.000098121,16.2,Normal\n"
)
UNSYNCHRONISED = (
    "00000000,,0,0.000000000,0.000000000,0.000000000,0.000000000,-21.604,0.000,0.000,1.000000000,"
    "1.000000000,0.0,Not synchronised\n"
)


def test_chronys_tracking_is_read() -> None:
    found = clock_offset.tracking(CHRONY)
    assert (found.offset_s, found.source) == (1.512e-6, "chrony (169.254.169.123)")
    assert found.error_s == pytest.approx(0.000211334 / 2 + 0.000098121)
    assert clock_offset.judge(CHECK, found).state == "passing"
    assert clock_offset.judge(CHECK, clock_offset.tracking(UNSYNCHRONISED)).state == "critical"


@pytest.mark.parametrize(
    "line", ["", "506 Cannot talk to daemon", ",".join("x" * 14), CHRONY.replace("-0.000001512", "?")]
)
def test_what_is_no_tracking_is_refused(line: str) -> None:
    with pytest.raises(InvalidInput):
        clock_offset.tracking(line)


def test_the_kernels_estimate_is_the_larger_of_what_it_has_and_unsynchronised_is_critical() -> None:
    nano = 0x2000
    assert clock_offset.of_kernel(0, nano, 700_000, 20, 500) == Offset(-0.0007, 0.0005, "the kernel")
    assert clock_offset.of_kernel(0, 0, -700, 20, 500) == Offset(0.0007, 0.0005, "the kernel")
    assert clock_offset.of_kernel(0, nano, 0, 3000, 9000).offset_s == pytest.approx(0.003)
    for state, status in ((5, 0), (0, 0x40)):
        found = clock_offset.judge(CHECK, clock_offset.of_kernel(state, status, 0, 0, 16_000_000))
        assert found.state == "critical" and "not synchronised" in found.output
    assert clock_offset.kernel().error_s >= 0, "this machine's kernel answers"


@pytest.mark.parametrize(
    ("offset_s", "state"), [(0, "passing"), (0.0004, "passing"), (-0.0006, "warning"), (0.0021, "critical")]
)
def test_an_offset_is_judged_in_either_direction(offset_s: float, state: str) -> None:
    for each in (offset_s, -offset_s):
        assert clock_offset.judge(CHECK, Offset(each, 0.0, "x")).state == state


def packet(received_s: float, answered_s: float, first: int = 0x24, stratum: int = 1) -> bytes:
    stamps = [int(each * 2**32) for each in (0, 0, received_s + 2_208_988_800, answered_s + 2_208_988_800)]
    words = [word for stamp in stamps for word in (stamp >> 32 & 0xFFFFFFFF, stamp & 0xFFFFFFFF)]
    return struct.pack("!BBbb11I", first, stratum, 0, 0, 0, 0, 0, *words)


def test_the_offset_of_a_server_is_that_of_the_middle_of_the_round_trip() -> None:
    # Sent at 1000.000 by our clock, which is 5 s ahead; 10 ms there, 2 ms in the server, 10 ms back.
    found = clock_offset.offset(packet(995.010, 995.012), 1000.000, 1000.022, "ntp://x")
    assert found.offset_s == pytest.approx(5.0, abs=1e-6)
    assert found.error_s == pytest.approx(0.010, abs=1e-6)


def test_time_goes_on_after_2036_when_ntps_seconds_begin_again() -> None:
    now_s = 2_085_978_496 + 1000.0
    stamps = [0, 0, 1000 << 32, 1000 << 32]
    words = [word for stamp in stamps for word in (stamp >> 32, stamp & 0xFFFFFFFF)]
    era = struct.pack("!BBbb11I", 0x24, 1, 0, 0, 0, 0, 0, *words)
    assert clock_offset.offset(era, now_s, now_s, "ntp://x").offset_s == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"\x24" * 47,
        packet(0, 0, first=0x23),
        packet(0, 0, stratum=0),
        packet(0, 0, stratum=16),
        packet(0, 0, first=0xE4),
    ],
)
def test_what_is_no_servers_answer_is_refused(answer: bytes) -> None:
    with pytest.raises(InvalidInput):
        clock_offset.offset(answer, 0.0, 0.0, "ntp://x")
