"""ipc sockets whose paths are removed: who is connected stays so, and the next one finds them again."""

from __future__ import annotations

import time
from pathlib import Path

from hftd.bus import link, socket


def answered(router: link.Router, dealer: link.Dealer, word: bytes) -> bool:
    """Within a generous bound; the first tries may come before the connection."""
    end = time.monotonic() + 20
    while time.monotonic() < end:
        if dealer.send(word) and router.socket.poll(200):
            return bool(router.socket.recv_multipart()[-1] == word)
        time.sleep(0.01)
    return False


def test_a_removed_path_is_bound_again_and_old_connections_live_on(tmp_path: Path) -> None:
    path = tmp_path / "x.orders"
    router, first = link.Router(f"ipc://{path}"), link.Dealer("first", f"ipc://{path}")
    second: link.Dealer | None = None
    try:
        assert answered(router, first, b"one")
        assert socket.bind_lost() == [] and path.exists()
        path.unlink()
        bound: list[Path] = []
        end = time.monotonic() + 20
        while not bound and time.monotonic() < end:
            bound = socket.bind_lost()
            time.sleep(0.2)  # about a second in a daemon
        assert bound == [path] and path.exists()
        assert answered(router, first, b"two"), "it never lost its connection"
        second = link.Dealer("second", f"ipc://{path}")
        assert answered(router, second, b"three")
        time.sleep(0.5)
        assert path.exists(), "the old listener took the new one's path with it"
    finally:
        for each in (router, first, second):
            if each is not None:
                each.close()


def test_a_folder_that_is_gone_is_waited_for(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    path = folder / "x.orders"
    router = link.Router(f"ipc://{path}")
    try:
        path.unlink()
        folder.rmdir()
        for _ in range(3):
            assert socket.bind_lost() == []
            time.sleep(0.1)
        folder.mkdir()
        end = time.monotonic() + 20
        while not path.exists() and time.monotonic() < end:
            socket.bind_lost()
            time.sleep(0.1)
        assert path.exists()
    finally:
        router.close()


def test_a_closed_socket_is_forgotten(tmp_path: Path) -> None:
    path = tmp_path / "x.orders"
    router = link.Router(f"ipc://{path}")
    router.close()
    path.unlink()
    assert socket.bind_lost() == [] and socket.bind_lost() == [] and not path.exists()
