"""hft-floord: parent of a laptop floor. Runs the processes that run.json asks for (the store, an agent for
each host, the controller) and restarts what dies.

Promises: one for each site folder (floor.lock, which no child inherits); floor.json says at any moment what
runs, so that the next hft-floord adopts it and `hftctl down` ends it even when this process is dead; SIGTERM
takes the floor down in order. It knows no service: those are in the store, and `hftctl up` and `hftctl
apply` write them. It is on no critical path: leadership, health and trading go on without it. Under systemd,
units do its work.

Its own trouble (a full disk, no descriptors, a store that does not answer, a run.json or a key that cannot
be read) is said when it begins and when it is over, and tried again meanwhile; what runs goes on. Its log
rotates (host/log_file.py), and so do those of its children.
"""

from __future__ import annotations

import argparse
import asyncio
import functools
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import msgspec

from controlplane import model, store
from controlplane.errors import HftctlError, InvalidSettings, Unavailable
from controlplane.floor import down, embedded, lost_folder, processes, run_file, settling
from controlplane.floor import folders as site_folders
from controlplane.floor.child import Child
from controlplane.floor.folders import Folders
from controlplane.floor.ownership import make_own
from controlplane.floor.run_file import RunFile
from controlplane.host import identity, inherited, locks, log, run, run_folder, sched, standing, title
from controlplane.model import Process, records

LOOK_EVERY_S = 0.2
"""At run.json (an `hftctl up` that names the hosts) and at the controller's key."""
STORE_TRY_AGAIN_S = 0.5
UNWRITTEN = (-1, -1)
"""As no file is stamped."""
STORE_STARTS = 3
"""Ends of the store before it answers, until that is an error: an adopted one may die just now."""
STORE_FREE_S = 15.0
"""For a store that is on its way out to let go of its data."""
DOWN_TIMEOUT_S = 30.0
CLEAN_UP_S = 90.0
"""More than all the waits of `down.stop` and `down.sweep` together."""


class Floord:
    def __init__(self, folders: Folders, site: str) -> None:
        self.folders = folders
        self.site = site
        self.keys = store.Keys(site)
        self.before = folders.running() or {}
        self.run_dir = folders.run_dir()
        self.client: store.Store
        self.children: dict[str, Child] = {}
        self.supervised: set[str] = set()
        self.store_said: dict[str, Any] = {}
        self.wanted = RunFile(site)
        self.hosts: list[str] = []
        """Whose agents run, in the order of their HTTP ports."""
        self.seen = (0, 0)
        """run.json as it was read last."""
        self.floor_written = (0, 0)
        """floor.json as it was written last."""
        self.controller_url: str | None = None
        self.notes: list[str] = []
        self.started_ns = time.time_ns()
        self.me = identity.myself("floord")
        self.troubles = standing.Troubles(self.say)
        self.goes_on = False
        """There is a floor that outlives this process: one was adopted, or has come up."""

    # --- what is said ---------------------------------------------------------------------------------------

    def say(self, text: str) -> None:
        log.info("floor.said", text=text)

    def note(self, text: str) -> None:
        """Said by `hftctl up` too; once."""
        if text not in self.notes:
            self.notes.append(text)
            self.say(text)

    def write_floor(self) -> None:
        """What runs, on record. A disk that does not take it is said; `look` tries again."""
        floor = {
            "site": self.site,
            "site_dir": str(self.folders.site_dir),
            "run_dir": str(self.run_dir),
            "floord": identity.to_plain(self.me),
            "started_ns": self.started_ns,
            "hosts": self.hosts,
            "store": self.store_said,
            "controller": {"url": self.controller_url},
            "processes": {
                name: identity.to_plain(child.process)
                for name, child in self.children.items()
                if child.process
            },
            "notes": self.notes,
        }
        content = json.dumps(floor, indent=1).encode() + b"\n"
        try:
            site_folders.write_atomically(self.folders.floor_json, content)
        except OSError as exc:
            self.floor_written = UNWRITTEN
            self.troubles.stands("floor.json", f"cannot be written ({exc}); what runs now is not on record")
        else:
            self.floor_written = stamp(self.folders.floor_json)
            self.troubles.over("floor.json")

    # --- the one task ---------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Until cancelled.

        Raises:
            HftctlError, OSError: the floor cannot be begun. Once there is one, trouble is said and tried
            again.
        """
        self.seen = stamp(self.folders.run_json)  # before the read: a change after it is not missed
        found = run_file.read(self.folders)
        if found is None:
            raise HftctlError(f"{self.folders.run_json}: missing; hft-floord is started by `hftctl up`")
        self.wanted = found
        self.run_dir = lost_folder.taken(self.folders, self.before)
        self.store_said = self.before.get("store") or {}
        # What an earlier hft-floord started is kept on record from the first write on, or `down` could not
        # find it.
        recorded = self.before.get("processes") or {}
        known = {name: identity.from_plain(record, name) for name, record in recorded.items()}
        for name, process in (lost_folder.living(self.folders) | known).items():
            if not self.child(name, ["false"]).adopt(process):
                del self.children[name]
        self.goes_on = bool(self.children)
        self.hosts = list(self.before.get("hosts") or [])
        self.write_floor()
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self.beat(), name="beat")
            self.client = await self.begin(tasks)
            try:
                await self.look(tasks)
            finally:
                await self.client.close()

    async def beat(self) -> None:
        """For the agents, which raise an alarm when this loop does not turn (agents/floor_watch.py)."""
        while True:
            locks.beat(self.run_dir / locks.FLOORD_BEAT)
            await asyncio.sleep(locks.BEAT_EVERY_S)

    async def begin(self, tasks: asyncio.TaskGroup) -> store.Store:
        """The store, then the hosts; returns a client of it. For a floor that runs it is tried until it
        succeeds: its processes do without us meanwhile. Raises as `run`.
        """
        while True:
            client: store.Store | None = None
            try:
                client = await self.start_store(tasks)
                # Before any host starts: nothing may lead under an incarnation that is about to be raised.
                await settling.settle(client, self.keys, self.folders, self.note)
                self.start_hosts(tasks)
            except Exception as exc:
                if client is not None:
                    await client.close()
                if not self.goes_on:
                    raise
                self.troubles.stands("taking over the floor", f"{'; '.join(run.reasons(exc))}; tried again")
                await asyncio.sleep(STORE_TRY_AGAIN_S)
            else:
                self.troubles.over("taking over the floor")
                self.goes_on = True
                return client

    def child(self, name: str, command: list[str], folder: Path = Path("/")) -> Child:
        environment = {**os.environ, processes.FLOOR_MARK: str(self.folders.site_dir)}
        if self.wanted.journal_dir is not None:
            environment["HFT_JOURNAL_DIR"] = self.wanted.journal_dir
        self.children[name] = Child(
            name,
            command,
            self.folders.log(name),
            environment,
            self.say,
            self.write_floor,
            self.troubles,
            folder,
            real_time_priority=sched.LEASE_PRIORITY if name in embedded.KINDS else None,
            socket=lost_folder.socket_of(name, self.run_dir, self.store_said.get("endpoints", ())),
        )
        return self.children[name]

    def supervise(self, tasks: asyncio.TaskGroup, name: str, command: list[str]) -> Child:
        """Start it, or go on with the adopted one (the command is for its next start). Once is enough."""
        child = self.children.get(name)
        if child is not None and name in self.supervised:
            return child
        self.supervised.add(name)
        if child is None:
            child = self.child(name, command)
        child.command = command
        tasks.create_task(child.supervise(), name=name)
        return child

    async def start_store(self, tasks: asyncio.TaskGroup) -> store.Store:
        """The adopted store, or a new one; returns a client of it once it answers.

        Raises:
            Refused: the data is of another version. Unavailable: it does not come up; its log says why.
        """
        if self.wanted.store_url:
            return await self.reach_store(self.wanted.store_url)
        kind = str(self.store_said.get("kind") or self.wanted.store)
        own = embedded.named(kind)
        child = self.children.get(kind)
        if kind in self.supervised:
            return store.connect(self.store_url())  # tried again for what came after it
        if child is None or not self.prepare_adopted(own, child):
            choice = own.choose()
            launch = own.launch(choice, self.folders.site_dir, self.run_dir)
            self.store_said = {"kind": kind, "version": choice.version, "sentence": choice.sentence}
            self.say(choice.sentence)
            child = self.child(kind, list(launch.command), launch.folder)
            self.launched(child, launch)
            child.held_by = functools.partial(own.holder, choice.version, self.folders.site_dir)
            await child.start_when_free(STORE_FREE_S)
        elif child.cut_off:
            self.say("its socket is gone: the store is started again, on its data")
            await lost_folder.end(child)
            await child.start_when_free(STORE_FREE_S)
        for starts_left in reversed(range(STORE_STARTS)):
            try:
                await embedded.wait_ready(self.store_url(), functools.partial(_dead, child.process))
                await own.ready(self.store_url(), self.folders.site_dir)
                break
            except Unavailable as exc:
                if not _dead(child.process) or not starts_left:
                    raise Unavailable(f"{exc} ({self.folders.log(kind)})") from exc
                self.say(f"{exc}; it is started again")
                await child.start_when_free(STORE_FREE_S)
        self.supervise(tasks, kind, child.command)
        return store.connect(self.store_url())

    async def reach_store(self, url: str) -> store.Store:
        """One that is there already: nothing is started, and nothing of it ended. Raises as `start_store`."""
        kind, endpoints, _ = store.endpoint.split(url)
        sentence = f"store: {kind} at {', '.join(endpoints)}, not of this floor"
        if self.store_said.get("url") != url:
            self.say(sentence)
        self.store_said = {"kind": kind, "endpoints": endpoints, "url": url, "sentence": sentence}
        await embedded.wait_ready(url, lambda: False)
        return store.connect(url)

    def prepare_adopted(self, own: embedded.Embedded, child: Child) -> bool:
        """Its next start, with the binary that runs. The command is made here and not taken from floor.json:
        a file is no authority for what runs as this user. False: it has just died.
        """
        at = [str(each) for each in self.store_said.get("endpoints", ())]
        pid = child.process.pid if child.process else 0
        try:
            binary = str(Path(f"/proc/{pid}/exe").readlink())
        except OSError:
            return False
        try:
            choice = own.chosen(binary.removesuffix(" (deleted)"))
        except InvalidSettings as exc:
            self.note(f"the store goes on, and cannot be started again if it dies: {exc}")
            return True
        self.store_said = {"kind": own.kind, "version": choice.version, "sentence": choice.sentence} | (
            self.store_said
        )
        self.launched(child, own.launch(choice, self.folders.site_dir, self.run_dir, at))
        child.held_by = functools.partial(own.holder, choice.version, self.folders.site_dir)
        if not all(each.startswith("unix:") for each in at):
            self.note(
                f"the store was started by an earlier release and listens at {', '.join(at)}, open to every "
                "user of this machine: hftctl down and hftctl up close that"
            )
        return True

    def store_url(self) -> str:
        return site_folders.url_of(self.store_said)

    def start_hosts(self, tasks: asyncio.TaskGroup) -> None:
        """The agents that run.json asks for and that are not looked after yet, and with the first of them the
        controller. A host that is no longer asked for keeps its agent until the floor goes down.
        """
        common = ["--site", self.site, "--site-dir", str(self.folders.site_dir)]
        common += ["--run-dir", str(self.run_dir), "--store", self.store_url()]
        self.hosts += [host for host in self.wanted.hosts if host not in self.hosts]
        port = self.wanted.http_port
        for number, host in enumerate(self.hosts, start=1):
            http = ["--http-port", str(port + number if port else 0)]
            self.supervise(
                tasks,
                f"agent-{host}",
                [sys.executable, "-m", "agents.daemon", "--host", host, *common, *http],
            )
        if self.hosts:
            self.supervise(
                tasks,
                "controld",
                [
                    *(sys.executable, "-m", "controlplane.daemon", *common, "--http-port", str(port)),
                    *(() if self.wanted.store_url else ("--own-store",)),
                ],
            )
        self.write_floor()

    async def look(self, tasks: asyncio.TaskGroup) -> None:
        """Follow run.json and the controller's key, for as long as the floor is up. What goes wrong in a
        look, whatever it is, costs that look: it is said once, and the next one comes.
        """
        while True:
            await asyncio.sleep(LOOK_EVERY_S)
            try:
                await self.look_once(tasks)
            except Exception as exc:
                self.troubles.stands(
                    "run.json and the controller's address", f"not read: {'; '.join(run.reasons(exc))}"
                )
                await asyncio.sleep(STORE_TRY_AGAIN_S)
            else:
                self.troubles.over("run.json and the controller's address")

    async def keep_reachable(self) -> None:
        """Make the run folder again where it is lost, and start again the children whose sockets went with it
        (lost_folder.py).
        """
        run_folder.make(self.run_dir)
        cut_off = [child for child in self.children.values() if child.cut_off]
        if cut_off:
            names = ", ".join(sorted(child.name for child in cut_off))
            self.say(
                f"{self.run_dir}: sockets are gone from it (a logout, or a cleaner); started again: {names}, "
                "and the daemons one by one"
            )
            await lost_folder.start_again(cut_off)

    def launched(self, child: Child, launch: embedded.Launch) -> None:
        """This is how the store is started from now on, and where it answers then."""
        child.command, child.folder = list(launch.command), launch.folder
        self.store_said["endpoints"] = list(launch.endpoints)
        if launch.token_file is not None:
            self.store_said["token_file"] = str(launch.token_file)
        child.socket = lost_folder.socket_of(child.name, self.run_dir, launch.endpoints)

    async def look_once(self, tasks: asyncio.TaskGroup) -> None:
        await self.keep_reachable()
        now = stamp(self.folders.run_json)
        written = stamp(self.folders.floor_json)
        if written != self.floor_written:
            if self.floor_written != UNWRITTEN:
                self.say(f"{self.folders.floor_json}: changed or gone by another program; written again")
            self.write_floor()
        if now != self.seen:
            self.wanted = run_file.read(self.folders) or self.wanted
            self.start_hosts(tasks)
            self.seen = now
        kind = str(self.store_said.get("kind"))  # the others look after theirs themselves
        if kind in self.children:
            await asyncio.to_thread(self.children[kind].look_after_log)
        url = await controller_url(self.client, self.keys)
        if url != self.controller_url:
            self.controller_url = url
            self.write_floor()


def _dead(process: Process | None) -> bool:
    return process is None or not identity.runs(process)


def stamp(path: Path) -> tuple[int, int]:
    try:
        found = path.stat()
    except OSError:
        return (0, 0)
    return (found.st_ino, found.st_mtime_ns)


async def controller_url(client: store.Store, keys: store.Keys) -> str | None:
    entry = await client.get(keys.controller())
    if entry is None:
        return None
    try:
        return model.decode(records.ControllerRecord, entry.value).url
    except msgspec.DecodeError:
        return None  # of another release: its own agents say so


async def take_down(floord: Floord) -> None:
    for child in floord.children.values():
        child.stopping = True
    floord.say("taking the floor down")
    await asyncio.to_thread(down.stop, floord.folders, timeout_s=DOWN_TIMEOUT_S)
    left = await asyncio.to_thread(down.sweep, floord.folders)
    floord.say(f"down{', but not: ' + str(left) if left else ''}")
    if not left:
        down.remove(floord.folders)


async def keep(folders: Folders, site: str, stop: run.Stop) -> int:
    """Run the floor until a signal, which takes it down, as an error does while it is begun. A floor that
    runs is not taken down for a trouble of hft-floord's own.
    """
    make_own(folders.site_dir)
    folders.create()
    with locks.take(folders.floor_lock, "floord", "another hft-floord runs this site folder"):
        floord = Floord(folders, site)
        try:
            await floord.run()
        except BaseException as failed:
            if not stop.asked:
                # Said before the floor goes down, and not only at the end of the process: that takes seconds.
                floord.say(f"cannot go on: {'; '.join(run.reasons(failed))}")
            if stop.asked or not floord.goes_on:
                await take_down(floord)
            else:
                floord.say("what runs goes on without hft-floord; hftctl up adopts it, hftctl down ends it")
            raise
    return 0


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="hft-floord", description="Parent of a laptop floor; started by `hftctl up`."
    )
    parser.add_argument("--site-dir", required=True, type=Path)
    parser.add_argument("--site", default="lab")
    given = parser.parse_args(arguments)
    title.show("hft-floord", sys.argv[1:])
    inherited.reset()  # whoever typed `hftctl up`, from whatever shell: all that runs here descends from it
    folders = Folders(given.site_dir)
    # Cancelled at once by a signal: that is what takes the floor down.
    serve = functools.partial(keep, folders, given.site)
    sys.exit(run.until_signalled("floord", serve, clean_up_s=CLEAN_UP_S))


if __name__ == "__main__":
    main()
