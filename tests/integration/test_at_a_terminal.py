"""What stays in front draws itself at a terminal and ends with Ctrl-C: `hftctl up` with its floor, `hftctl
status --watch` without.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import re
import select
import struct
import subprocess
import termios
from collections.abc import Iterator
from typing import Protocol

from tests.support import floors

ROWS, COLUMNS = 60, 200
ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|\x1b[()=>][0-9A-B]?")


class Terminal:
    """A process with a terminal of its own, and what it has drawn there."""

    def __init__(self, process: subprocess.Popen[bytes], master: int) -> None:
        self.process, self._master, self.drawn = process, master, ""

    def look(self) -> str:
        """All drawn so far, without the escapes; a closed terminal (EIO) has nothing new."""
        with contextlib.suppress(OSError):
            while select.select([self._master], [], [], 0)[0]:
                self.drawn += os.read(self._master, 65536).decode(errors="replace")
        return ESCAPES.sub("", self.drawn)

    def shows(self, *words: str) -> bool:
        drawn = self.look()
        return all(word in drawn for word in words)

    def type(self, text: str) -> None:
        os.write(self._master, text.encode())

    def ctrl_c(self) -> None:
        self.type("\x03")

    def ended(self) -> bool:
        self.look()  # else a full terminal would hold it
        return self.process.poll() is not None


class Asked(Protocol):
    """A floor, or a site that is less than one."""

    environment: dict[str, str]


@contextlib.contextmanager
def at_a_terminal(floor: Asked, *words: str) -> Iterator[Terminal]:
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, COLUMNS, 0, 0))

    def take_terminal() -> None:
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)  # so that Ctrl-C is a signal to it

    environment = {**floor.environment, "TERM": "xterm"}
    process = subprocess.Popen(
        [*floors.HFTCTL, *words],
        stdin=slave,
        stdout=slave,
        stderr=slave,
        env=environment,
        start_new_session=True,
        preexec_fn=take_terminal,
    )
    os.close(slave)
    try:
        yield Terminal(process, master)
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()
        os.close(master)


def test_up_draws_the_floor_and_ctrl_c_takes_it_down() -> None:
    with floors.floor(bring_up=False) as floor, at_a_terminal(floor, "up") as terminal:
        floors.wait_for(
            "a healthy floor drawn",
            lambda: terminal.shows("site lab  healthy", "omsd-alpha-1", "strategy-mm-alpha-1", "orders "),
        )
        assert floor.run("status").returncode == 0
        terminal.ctrl_c()
        floors.wait_for("its end", terminal.ended)
        assert terminal.process.returncode == 130
        assert terminal.shows("is down; its data is kept") and "Traceback" not in terminal.drawn
        assert floors.processes_of(floor.site_dir) == []


def test_watching_draws_what_changes_and_ctrl_c_ends_the_watching_alone() -> None:
    with floors.floor() as floor, at_a_terminal(floor, "status", "--watch") as terminal:
        floors.wait_for("the floor drawn", lambda: terminal.shows("site lab  healthy", "positiond-beta-1"))
        floor.kill(floor.service("positiond")["instances"][0]["pid"])
        after = floors.wait_for(
            "a new one",
            lambda: (now := floor.service("positiond")["instances"][0])["restarts"] and now["ready"] and now,
        )
        floors.wait_for("its pid drawn", lambda: terminal.shows(str(after["pid"])))
        terminal.ctrl_c()
        floors.wait_for("its end", terminal.ended)
        assert terminal.process.returncode == 130 and "Traceback" not in terminal.drawn
        assert floor.run("status").returncode == 0, "the floor goes on"
