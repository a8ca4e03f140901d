"""The order path in one process over real ZeroMQ: omsd (two of them), execd, positiond and auditd as built,
the test as keeper, riskd and venue.

Every loop is turned by hand until a condition holds, so that a test can look between two turns and nothing
depends on a scheduler.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from controlplane.host import identity, secret
from controlplane.model import Phase, Process, Token
from hftd import bus, runtime
from hftd.daemons import auditd, execd, positiond
from hftd.daemons.omsd import daemon
from hftd.engine import fixed, reasons
from hftd.engine.orders import answers, approvals
from hftd.engine.orders import claims as claiming
from hftd.runtime import context as contexts
from hftd.settings import AuditSettings, ExecutionSettings, OrdersSettings, PositionSettings
from hftd.shm import fence_file, pages
from hftd.shm.pages import Wanted
from hftd.storage import fences
from hftd.storage.fences import Fences
from hftd.wire import codec, control, orders
from hftd.wire.orders import Kind, OrderState, Side
from tests.support import claims, store_tokens

WAIT_S = 20.0
FAR_NS = 1 << 62
INCARNATION = 1_790_000_000_000
RISK = codec.TokenOnWire(INCARNATION, "riskd", 1)
CENT = fixed.UNIT // 100


class Member:
    """One daemon, built and turned here, with its two words."""

    def __init__(
        self,
        folder: Path,
        instance: str,
        build: Callable[[runtime.Context], runtime.Loop],
        *,
        leads: bool,
        generation: int,
    ) -> None:
        service, host, _ = instance.rsplit("-", 2)
        known = identity.identify(instance)
        assert known is not None
        self.process = Process(instance, known.boot_id, known.pid + generation, known.start_time)
        self.alive, self.word = folder / f"{instance}.alive", folder / f"{instance}.lease"
        pages.create(self.alive, pages.ALIVE_MAGIC)
        if leads:
            pages.create(self.word, pages.LEASE_MAGIC)
        data = folder / "data" / instance
        config = contexts.Config(1, service, folder, folder / "site", data, data / "journal", {})
        (folder / "site").mkdir(exist_ok=True)
        self.context = runtime.Context(
            site="lab",
            host=host,
            service=service,
            process=self.process,
            config=config,
            alive=self.alive,
            lease_word=self.word if leads else None,
        )
        self.context.log = lambda kind, **fields: self.events.append((kind, fields))  # type: ignore[method-assign]
        self.context.store_tokens.tell(store_tokens.on_wire())
        self.events: list[tuple[str, dict[str, Any]]] = []
        self.loop = build(self.context)
        self.dead = False
        self.frozen = False
        """As after SIGSTOP: it is not turned, and what comes for it waits in its sockets."""

    def turn(self) -> None:
        if self.frozen:
            return
        loop, context = self.loop, self.context
        context.lease.beat()
        if context.lease.has_lease:
            loop._look_at_the_word()
        loop._run_timers()
        for flush in loop._before_wait:
            flush()
        loop._turn(0)

    def lead(
        self,
        epoch: int,
        wanted: Wanted = Wanted.LEAD,
        valid_until_ns: int = FAR_NS,
        told: dict[str, fence_file.Target] | None = None,
    ) -> None:
        """What the keeper does after its own take: the fence file first, then the page."""
        fence_file.path_of(self.word).write_bytes(msgspec.json.encode(told or {}))
        with pages.LeasePage(self.word, writable=True) as keeper:
            keeper.write(pages.LeaseWord(self.process, INCARNATION, epoch, wanted, valid_until_ns))

    def release(self) -> None:
        with pages.LeasePage(self.word, writable=True) as keeper:
            keeper.write(pages.NOBODY)

    def told(self, service: str, *peers: control.Peer) -> None:
        self.context.known_peers[service] = list(peers)
        for run in self.loop._on_peers.get(service, ()):
            run(list(peers))

    def ask(self, what: str, **args: Any) -> Any:
        return self.loop._on_ask[what](args)

    @property
    def phase(self) -> Phase:
        return self.context.lease.current_phase

    def happened(self, kind: str) -> list[dict[str, Any]]:
        return [fields for each, fields in self.events if each == kind]

    def peer(self, role: str = "", epoch: int = 0) -> control.Peer:
        return control.Peer(self.process.instance, dict(self.context.endpoints), role, epoch)

    def kill(self, *, clean: bool = False) -> None:
        """Sockets close and files stay as they are, as after kill -9; `clean` also runs what a stop runs (and
        lets the journal's folder go).
        """
        if self.dead:
            return
        self.dead = True
        if clean:
            for stop in self.loop._on_stop:
                stop()
        for socket, _ in self.loop._handlers:
            socket.close()


@dataclass
class Venue:
    """simd's desk, scripted: fences of both groups, working orders, executions on demand."""

    router: bus.link.Router
    fences: Fences
    macs: claiming.Macs
    working: dict[str, orders.Place] = field(default_factory=dict)
    executions: list[orders.Report] = field(default_factory=list)
    heard: list[Any] = field(default_factory=list)
    gateway: bytes = b""
    silent: bool = False
    deaf: bool = False
    """Orders are taken and nothing is said."""
    session: int = 7
    """Another one: the venue was restarted."""
    id_step: int = 1
    """Between two execution ids."""
    id_steps: dict[str, int] = field(default_factory=dict)
    """The same by symbol, where it is another."""

    def turn(self) -> None:
        while self.router.socket.poll(0):
            identity, frame = self.router.socket.recv_multipart()
            message = orders.decode_towards_venue(frame)
            self.heard.append(message)
            if not self.silent:
                self._take(identity, message)

    def _say(self, identity: bytes, message: orders.ComingBack) -> None:
        if not self.deaf:
            self.router.send(identity, codec.encode(message))

    def _take(self, identity: bytes, message: Any) -> None:
        head = codec.head("simd-alpha-1", time.time_ns())
        match message:
            case orders.Fence():
                token, claimant = message.token.token(), message.claimant.process()
                assert self.macs.fits(message, identity), "execd signs for this link"
                ok = self.fences.admit(token, claimant)
                if ok:
                    self.gateway = identity
                self._say(
                    identity,
                    orders.Fenced(
                        *head,
                        token.group,
                        token.epoch,
                        ok,
                        "" if ok else self.fences.objection(token, claimant),
                        session=self.session,
                    ),
                )
            case orders.Place():
                if message.replaced_id:
                    self._take(identity, orders.cancel_of(message))
                if self.fences.refuses(message.gateway) or self.fences.refuses(message.token):
                    self._say(
                        identity,
                        orders.Refusal(
                            *head, reasons.STALE_TOKEN, "", message.order_id, message.client_order_id
                        ),
                    )
                    return
                self.working[message.order_id] = message
                self.report(message, OrderState.WORKING)
            case orders.Cancel():
                place = self.working.pop(message.order_id, None)
                if place is not None:
                    self.report(place, OrderState.CANCELLED)
                else:
                    self._say(
                        identity,
                        orders.Refusal(
                            *head, reasons.UNKNOWN_ORDER, "", message.order_id, message.client_order_id
                        ),
                    )
            case orders.CancelAll():
                gone = list(self.working.values())
                self.working.clear()
                for place in gone:
                    self.report(place, OrderState.CANCELLED, reason=reasons.TAKE_OVER)
                self._say(identity, orders.CancelledAll(*head, message.request, len(gone)))
            case orders.OpenOrdersWanted():
                self._say(identity, orders.OpenOrders(*head, message.request, []))
            case orders.ExecutionsWanted():
                found = [each for each in self.executions if each.execution_id > message.after_execution][:2]
                self._say(identity, orders.Executions(*head, message.request, found))

    def report(
        self,
        place: orders.Place,
        state: OrderState,
        *,
        fill: int = 0,
        filled: int = 0,
        reason: str = "",
        said: bool = True,
    ) -> orders.Report:
        last = self.executions[-1].execution_id if self.executions else 0
        execution = last + self.id_steps.get(place.symbol, self.id_step) if fill else 0
        ended = answers.ended(
            codec.head("simd-alpha-1", time.time_ns()),
            place,
            state,
            reason,
            text="",
            order_id=place.order_id,
            filled=filled,
        )
        report = codec.replace(
            ended,
            execution_id=execution,
            last_price=place.price if fill else 0,
            last_quantity=fill,
            venue_ns=time.time_ns(),
        )
        if fill:
            self.executions.append(report)
        if said:
            self._say(self.gateway, report)
        return report

    def fill(self, order_id: str, *, said: bool = True) -> orders.Report:
        """Fill a working order whole; `said` False: the report is lost on the way."""
        place = self.working.pop(order_id)
        return self.report(place, OrderState.FILLED, fill=place.quantity, filled=place.quantity, said=said)


@dataclass
class Riskd:
    """riskd's end of `orders`: who is attached, what it was told, and Places with an approval."""

    router: bus.link.Router
    macs: approvals.Macs
    claims: claiming.Macs
    omsd: bytes = b""
    epoch: int = 0
    told: list[Any] = field(default_factory=list)
    placed: int = 0

    def turn(self) -> None:
        while self.router.socket.poll(0):
            identity, frame = self.router.socket.recv_multipart()
            try:
                message: Any = orders.decode_coming_back(frame)
            except Exception:
                message = orders.decode_towards_venue(frame)
            if isinstance(message, orders.Attach):
                assert message.token is not None
                assert self.claims.fits(message, identity), "omsd signs for this link"
                ok = message.token.epoch >= self.epoch
                if ok:
                    self.omsd, self.epoch = identity, message.token.epoch
                self.router.send(
                    identity, codec.encode(orders.Attached(1, 0, 0, "riskd-alpha-1", RISK, ok, "", 0))
                )
            else:
                self.told.append(message)

    def place(
        self,
        client_order_id: str = "",
        *,
        approval: orders.Approval | str | None = "",
        to: bytes = b"",
        replaces: str = "",
        symbol: str = "BTCUSDT",
    ) -> str:
        self.placed += 1
        client_order_id = client_order_id or f"mm-{self.placed}"
        order = self.approved(codec.replace(self.order(client_order_id, replaces), symbol=symbol))
        if not isinstance(approval, str):
            order = codec.replace(order, approval=approval)
        assert self.router.send(to or self.omsd, codec.encode(order))
        return client_order_id

    def approved(self, order: orders.Place, number: int = 0) -> orders.Place:
        """With riskd's next approval, or that of this number."""
        signed = self.macs.approval(order, number or self.placed, RISK, 1)
        return codec.replace(order, approval=signed)

    def rehearse(self, *, to: bytes = b"") -> None:
        place = self.order("mm-0", "mm-0")
        place = codec.replace(place, approval=self.macs.approval(place, 0, RISK, 1))
        assert self.router.send(
            to or self.omsd, codec.encode(orders.Rehearsal(1, 0, 0, "riskd-alpha-1", RISK, place))
        )

    def order(self, client_order_id: str, replaces: str = "") -> orders.Place:
        return orders.Place(
            1, 0, 0, "riskd-alpha-1", RISK, client_order_id, "strategy-mm", "spot", "BTCUSDT", Side.BUY,
            Kind.POST_ONLY, 6_180_000 * CENT,
            fixed.UNIT // 1000, time.monotonic_ns(), 1, "", None, None, replaces,
        )  # fmt: skip

    def cancel(self, client_order_id: str) -> None:
        cancel = orders.Cancel(
            1, 0, 0, "riskd-alpha-1", RISK, client_order_id, "strategy-mm", "spot", "BTCUSDT", 0
        )
        assert self.router.send(self.omsd, codec.encode(cancel))

    def states(self, client_order_id: str) -> list[OrderState]:
        return [
            message.state
            for message in self.told
            if isinstance(message, orders.Report) and message.client_order_id == client_order_id
        ]

    def reasons(self, client_order_id: str) -> list[str]:
        return [message.reason for message in self.told if message.client_order_id == client_order_id]


class OrderPath:
    """Who stands on the order path, and how they find each other."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.members: dict[str, Member] = {}
        self._generation = 0
        self.site_dir = folder / "site"
        self.site_dir.mkdir(exist_ok=True)
        key = secret.derived(secret.read_or_make(self.site_dir), approvals.PURPOSE)
        macs = claims.macs(self.site_dir)
        self.venue = Venue(
            bus.link.Router(f"ipc://{folder}/simd-alpha-1.orders"),
            fences.Fences(folder / "venue.json", store_tokens.highest),
            macs,
        )
        self.riskd = Riskd(bus.link.Router(f"ipc://{folder}/riskd-alpha-1.orders"), approvals.Macs(key), macs)

    def start(self, instance: str, **changed: Any) -> Member:
        builds: dict[str, Callable[[runtime.Context], runtime.Loop]] = {
            "omsd": lambda context: daemon.build(context, OrdersSettings(**changed)),
            "execd": lambda context: execd.build(context, ExecutionSettings(**changed)),
            "positiond": lambda context: positiond.build(context, PositionSettings(**changed)),
            "auditd": lambda context: auditd.build(context, AuditSettings(**changed)),
        }
        service = instance.rsplit("-", 2)[0]
        self._generation += 1
        member = Member(
            self.folder,
            instance,
            builds[service],
            leads=service in ("omsd", "execd"),
            generation=self._generation,
        )
        self.members[instance] = member
        return member

    def introduce(self, *, omsd_leader: str = "", epoch: int = 0) -> None:
        """Everyone hears who serves what now."""
        peers: dict[str, list[control.Peer]] = {
            "simd": [
                control.Peer("simd-alpha-1", {"orders": f"ipc://{self.folder}/simd-alpha-1.orders"}, "", 0)
            ],
            "riskd": [
                control.Peer(
                    "riskd-alpha-1", {"orders": f"ipc://{self.folder}/riskd-alpha-1.orders"}, "leader", 1
                )
            ],
        }
        for instance, member in self.members.items():
            if not member.dead:
                role = (
                    "leader"
                    if instance == omsd_leader
                    else "standby"
                    if member.context.service == "omsd"
                    else ""
                )
                peers.setdefault(member.context.service, []).append(
                    member.peer(role, epoch if role == "leader" else 0)
                )
        for member in self.members.values():
            if not member.dead:
                for service, those in peers.items():
                    member.told(service, *those)

    def turn(self) -> None:
        self.venue.turn()
        self.riskd.turn()
        for member in self.members.values():
            if not member.dead:
                member.turn()

    def until(self, what: str, found: Callable[[], Any]) -> Any:
        end = time.monotonic() + WAIT_S
        while time.monotonic() < end:
            if value := found():
                return value
            self.turn()
        raise AssertionError(f"{what}: not within {WAIT_S:g} s")

    def close(self) -> None:
        for member in self.members.values():
            member.kill(clean=True)
        self.venue.router.close()
        self.riskd.router.close()


def path(folder: Path) -> Iterator[OrderPath]:
    """For a fixture: the path with an execd that is active, one omsd that leads with epoch 1, positiond and
    auditd.
    """
    one = OrderPath(folder)
    try:
        yield one
    finally:
        one.close()


def claim(member: Member, epoch: int) -> dict[str, fence_file.Target]:
    """The fence file's line about that leader."""
    return {
        member.context.service: fence_file.Target(
            Token(INCARNATION, member.context.service, epoch), member.process
        )
    }
