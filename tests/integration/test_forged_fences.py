"""Receivers as built, over real sockets: a FENCE or Attach far above what the store holds is not written and
not acknowledged, is shown, and costs the true leader nothing.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from controlplane.model import Phase, Token
from hftd import bus
from hftd.engine import reasons
from hftd.shm import fence_file
from hftd.shm.pages import Wanted
from hftd.storage.heights import WINDOW
from hftd.wire import codec, control, orders
from hftd.wire.orders import OrderState
from tests.support import claims, daemons, order_path, store_tokens
from tests.support.order_path import INCARNATION, OrderPath

FORGED = {
    "65 above": Token(INCARNATION, "omsd", 1 + WINDOW + 1),
    "2^62": Token(INCARNATION, "omsd", 1 << 62),
    "higher incarnation": Token(INCARNATION + 1, "omsd", 1),
}
FORGER = codec.ProcessOnWire("omsd-alpha-1", "0f1e2d3c-4b5a-4678-89ab-cdef01234567", 4711, 1)
HEAD = (codec.VERSION, 1, 0, "omsd-alpha-1")


@pytest.fixture
def path() -> Iterator[OrderPath]:
    with tempfile.TemporaryDirectory(prefix="hft-", dir="/dev/shm") as folder:
        yield from order_path.path(Path(folder))


def store_holds(path: OrderPath, *tokens: Token) -> None:
    """Every receiver's agent says so."""
    for member in path.members.values():
        member.context.store_tokens.tell([codec.TokenOnWire.of(each) for each in tokens])


def trading(path: OrderPath) -> None:
    execd, alpha = path.start("execd-alpha-1"), path.start("omsd-alpha-1")
    path.start("positiond-alpha-1")
    path.introduce()
    store_holds(path, Token(INCARNATION, "omsd", 1), Token(INCARNATION, "execd", 1))
    execd.lead(1)
    path.until("execd is active", lambda: execd.phase is Phase.ACTIVE)
    alpha.lead(1)
    path.until("omsd is active and attached", lambda: alpha.phase is Phase.ACTIVE and path.riskd.omsd)


def works(path: OrderPath) -> None:
    name = path.riskd.place()
    path.until("the order works", lambda: path.riskd.states(name) == [OrderState.WORKING])


def say(
    path: OrderPath, claim: orders.Fence | orders.Attach, instance: str, socket: str
) -> orders.ComingBack:
    """Over a link of our own, with a good MAC: as a process of the site that went wrong."""
    link = bus.link.Dealer("forger", path.members[instance].context.endpoints[socket])
    message = claims.signed(claim, link, path.site_dir)
    try:
        path.until("it is sent", lambda: link.send(codec.encode(message)))
        path.until("it is answered", lambda: link.socket.poll(0))
        return orders.decode_coming_back(link.socket.recv())
    finally:
        link.close()


def fence(token: Token) -> orders.Fence:
    return orders.Fence(*HEAD, codec.TokenOnWire.of(token), FORGER)


@pytest.mark.parametrize("forged", FORGED.values(), ids=FORGED)
def test_execd_neither_writes_nor_acknowledges_it_and_the_leader_trades_on(
    path: OrderPath, forged: Token
) -> None:
    trading(path)
    works(path)
    execd, heard = path.members["execd-alpha-1"], len(path.venue.heard)
    kept = (execd.context.data_dir / "fences.json").read_bytes()
    answer = say(path, fence(forged), "execd-alpha-1", "orders")
    assert isinstance(answer, orders.Fenced) and not answer.ok
    assert (execd.context.data_dir / "fences.json").read_bytes() == kept
    asked = [each for each in path.venue.heard[heard:] if isinstance(each, orders.Fence)]
    assert not any(
        each.token and each.token.epoch == forged.epoch and each.token.group == "omsd" for each in asked
    )
    counters = execd.context.counters
    assert counters["unconfirmed_fences"] == 1 and "stale_token_refusals" not in counters
    alarm = path.until("the alarm", lambda: execd.context.alarms.get("fence_unconfirmed"))
    assert f"{forged.incarnation}/{forged.epoch} of group 'omsd'" in alarm.text
    assert "omsd-alpha-1 (pid 4711)" in alarm.text and "hftctl fence show omsd" in alarm.text
    works(path)
    assert path.members["omsd-alpha-1"].phase is Phase.ACTIVE

    beta = path.start("omsd-beta-1")
    path.introduce(omsd_leader="omsd-alpha-1", epoch=1)
    path.members["omsd-alpha-1"].release()
    beta.context.store_tokens.tell([])
    beta.lead(2)
    path.until("a failover is taken without the store's word", lambda: beta.phase is Phase.ACTIVE)
    path.until("riskd has it", lambda: path.riskd.epoch == 2)
    works(path)


@pytest.mark.parametrize("forged", [FORGED["65 above"], FORGED["2^62"]], ids=["65 above", "2^62"])
def test_positiond_and_its_leader_alike(path: OrderPath, forged: Token) -> None:
    trading(path)
    keeper = path.members["positiond-alpha-1"]
    path.until("omsd is attached", lambda: (keeper.context.data_dir / "fences.json").exists())
    kept = (keeper.context.data_dir / "fences.json").read_bytes()
    attach = orders.Attach(*HEAD, codec.TokenOnWire.of(forged), FORGER)
    answer = say(path, attach, "positiond-alpha-1", "executions")
    assert isinstance(answer, orders.Attached) and not answer.ok
    assert (keeper.context.data_dir / "fences.json").read_bytes() == kept
    assert keeper.context.counters["unconfirmed_fences"] == 1
    path.until("the alarm", lambda: "fence_unconfirmed" in keeper.context.alarms)


@pytest.mark.parametrize("by", ["fence file", "agent"])
def test_a_new_incarnation_is_taken_once_it_is_confirmed(path: OrderPath, by: str) -> None:
    """A store that was restored: the leader asks again every 50 ms, and is let in with the word of it."""
    trading(path)
    execd, restored = path.members["execd-alpha-1"], Token(INCARNATION + 1, "omsd", 2)
    waits = say(path, fence(restored), "execd-alpha-1", "orders")
    assert isinstance(waits, orders.Fenced) and waits.waits and "not confirmed" in waits.reason
    path.until("the alarm", lambda: "fence_unconfirmed" in execd.context.alarms)
    if by == "agent":
        store_holds(path, restored, Token(INCARNATION, "execd", 1))
    else:
        fence_file.write(execd.word, {"omsd": fence_file.Target(restored, FORGER.process())})
    path.venue.fences._heights.reset(restored)
    taken = say(path, fence(restored), "execd-alpha-1", "orders")
    assert isinstance(taken, orders.Fenced) and taken.ok, taken
    path.until("the alarm is gone", lambda: "fence_unconfirmed" not in execd.context.alarms)
    assert b'"epoch":2' in (execd.context.data_dir / "fences.json").read_bytes()


def test_a_leader_that_waits_for_the_stores_word_is_let_in_with_it(path: OrderPath) -> None:
    """A receiver with an empty data folder, whose agent has not told it anything yet."""
    execd, alpha = path.start("execd-alpha-1"), path.start("omsd-alpha-1")
    path.introduce()
    store_holds(path)
    execd.lead(1)
    path.until("execd is active", lambda: execd.phase is Phase.ACTIVE)
    alpha.lead(1)
    path.until("the alarm", lambda: "fence_unconfirmed" in execd.context.alarms)
    assert alpha.phase is Phase.FENCING and not (execd.context.data_dir / "fences.json").exists()
    assert "fence_refused" not in alpha.context.alarms, "it is not refused: it waits"
    store_holds(path, Token(INCARNATION, "omsd", 1))
    path.until("it leads", lambda: alpha.phase is Phase.ACTIVE)
    path.until("the alarm is gone", lambda: "fence_unconfirmed" not in execd.context.alarms)


def test_a_lead_of_execd_takes_its_clients_token_from_the_fence_file(path: OrderPath) -> None:
    """No agent has said anything yet: what the keeper wrote is the store's word."""
    execd, alpha = path.start("execd-alpha-1"), path.start("omsd-alpha-1")
    path.introduce()
    store_holds(path)
    told = {"omsd": fence_file.Target(Token(INCARNATION, "omsd", 70), alpha.process)}
    execd.lead(1, Wanted.LEAD, told=told)
    path.until("execd is active", lambda: execd.phase is Phase.ACTIVE)
    assert b'"epoch":70' in (execd.context.data_dir / "fences.json").read_bytes()


def test_a_riskd_process_takes_no_forged_attach_and_is_reset_by_its_agent_alone(tmp_path: Path) -> None:
    now = Token(7, "omsd", 3)
    with daemons.daemon(tmp_path, "riskd", leads=True) as riskd:
        riskd.start()
        riskd.say(store_tokens.told(now))
        riskd.lead(1)
        link = bus.link.Dealer("omsd-beta-1.1", riskd.endpoint("orders"))

        def attach(token: Token, claimant: codec.ProcessOnWire) -> orders.Attached:
            message = orders.Attach(*HEAD, codec.TokenOnWire.of(token), claimant)
            frame = codec.encode(claims.signed(message, link, tmp_path / "site"))
            daemons.wait_for("the link is taken", lambda: link.send(frame))
            found = daemons.receive(
                link.socket, orders.decode_coming_back, lambda each: isinstance(each, orders.Attached)
            )
            assert isinstance(found, orders.Attached)
            return found

        leader = codec.ProcessOnWire("omsd-beta-1", FORGER.boot_id, 99, 9)
        try:
            daemons.wait_for("the leader is attached", lambda: attach(now, leader).ok)
            for epoch in (3 + WINDOW + 1, 1 << 62):
                assert not attach(Token(7, "omsd", epoch), FORGER).ok
            (row,) = riskd.ask("fences")
            assert (row["group"], row["incarnation"], row["epoch"]) == ("omsd", 7, 3)
            status = riskd.until(
                lambda said: (
                    isinstance(said, control.Status)
                    and "fence_unconfirmed" in [each.id for each in said.alarms]
                )
            )
            assert status.counters["unconfirmed_fences"] >= 2
            assert attach(now, leader).ok, "the leader goes on"

            copied = claims.signed(
                orders.Attach(*HEAD, codec.TokenOnWire(7, "omsd", 4), leader), b"elsewhere", tmp_path / "site"
            )
            assert link.send(codec.encode(copied))
            refused = daemons.receive(
                link.socket, orders.decode_coming_back, lambda each: isinstance(each, orders.Attached)
            )
            assert (refused.ok, refused.reason) == (False, reasons.FORGED_CLAIM)
            (row,) = riskd.ask("fences")
            assert row["epoch"] == 3, "a claim that was made for another link raises nothing"
            riskd.counted("forged_claims")
            assert attach(now, leader).ok

            # Within the window a forger who is the user can still lock the leader out; the agent sees it.
            assert attach(Token(7, "omsd", 3 + WINDOW), FORGER).ok and not attach(now, leader).ok
            ahead = riskd.until(
                lambda said: (
                    isinstance(said, control.Status) and "fence_ahead" in [each.id for each in said.alarms]
                )
            )
            assert "hftctl fence reset omsd --reason" in str(ahead.alarms)
            (row,) = riskd.ask("fences")

            def reset(admitted: int) -> control.Answer:
                agent = (codec.VERSION, 1, 0, "agent", None)
                riskd.say(control.FenceReset(*agent, 77, codec.TokenOnWire.of(now), leader, admitted))
                found = riskd.until(lambda said: isinstance(said, control.Answer) and said.ask == 77)
                assert isinstance(found, control.Answer)
                return found

            assert not reset(row["admitted"] - 1).ok, "a claim was admitted since that look"
            done = reset(row["admitted"])
            kept = (tmp_path / f"data-{riskd.instance}" / "fences.json").read_bytes()
            assert done.ok and b'"epoch":3,' in kept, "on disk before the answer"
            assert attach(now, leader).ok
            riskd.until(
                lambda said: (
                    isinstance(said, control.Status)
                    and "fence_ahead" not in [each.id for each in said.alarms]
                    and said.counters.get("fences_reset") == 1
                )
            )
        finally:
            link.close()
