"""hft-floord: parent of a laptop floor. Starts the store, writes the specs into it, starts agents and
controller, restarts what dies.

Promises: one for each site folder (floor.lock, which no child inherits); floor.json says at any moment what
runs, so that the next hft-floord adopts it and `hftctl down` ends it even when this process is dead; SIGTERM
takes the floor down in order. It is on nobody's critical path: leadership, health and trading go on without
it. Under systemd, units do its work.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import functools
import json
import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from controlplane import model, store
from controlplane.errors import HftctlError, Unavailable
from controlplane.floor import desired as desired_file
from controlplane.floor import down, etcd, incarnation, processes
from controlplane.floor import folders as site_folders
from controlplane.floor.child import Child
from controlplane.floor.desired import Desired
from controlplane.floor.folders import Folders
from controlplane.host import identity, locks, log, run
from controlplane.model import Process, records

LOOK_EVERY_S = 0.2
"""At desired.json (an `hftctl up` that changes something) and at the controller's key."""
STORE_TRY_AGAIN_S = 0.5
STORE_STARTS = 3
"""A free port may be taken by somebody else before etcd binds it; three times in a row is another trouble."""
DOWN_TIMEOUT_S = 30.0
CLEAN_UP_S = 90.0
"""More than all the waits of `down.stop` and `down.sweep` together."""


class Floord:
    def __init__(self, folders: Folders, site: str) -> None:
        self.folders = folders
        self.site = site
        self.keys = store.Keys(site)
        self.run_dir = folders.create_run_dir()
        self.before = folders.running() or {}
        self.children: dict[str, Child] = {}
        self.store_said: dict[str, Any] = {}
        self.desired = Desired(site, "")
        self.applied = ""
        self.revisions: dict[str, int] = {}
        self.controller_url: str | None = None
        self.notes: list[str] = []
        self.started_ns = time.time_ns()

    # --- what is said ---------------------------------------------------------------------------------------

    def say(self, text: str) -> None:
        log.info("floor.said", text=text)

    def note(self, text: str) -> None:
        """Said by `hftctl up` too."""
        self.notes.append(text)
        self.say(text)

    def write_floor(self) -> None:
        me = identity.identify("floord", os.getpid())
        floor = {
            "site": self.site,
            "site_dir": str(self.folders.site_dir),
            "run_dir": str(self.run_dir),
            "floord": identity.to_plain(me) if me else None,
            "started_ns": self.started_ns,
            "hosts": self.desired.hosts,
            "services_file": self.desired.services_file,
            "store": self.store_said,
            "controller": {"url": self.controller_url},
            "processes": {
                name: identity.to_plain(child.process)
                for name, child in self.children.items()
                if child.process
            },
            "applied": self.applied,
            "revisions": self.revisions,
            "notes": self.notes,
        }
        site_folders.write_atomically(self.folders.floor_json, json.dumps(floor, indent=1).encode() + b"\n")

    # --- the one task ---------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Until cancelled."""
        found = desired_file.read(self.folders)
        if found is None:
            raise HftctlError(f"{self.folders.desired_json}: missing; hft-floord is started by `hftctl up`")
        self.desired = found
        # What an earlier hft-floord started is kept on record from the first write on, or `down` could not
        # find it.
        for name, record in (self.before.get("processes") or {}).items():
            child = self.child(name, ["false"])
            if not child.adopt(identity.from_plain(record, name)):
                del self.children[name]
        self.store_said = self.before.get("store") or {}
        self.write_floor()
        async with asyncio.TaskGroup() as tasks:
            client = await self.start_store(tasks)
            try:
                await self.settle_incarnation(client)
                await self.apply(client, self.desired)
                self.start_hosts(tasks)
                await self.look(client)
            finally:
                await client.close()

    def child(self, name: str, command: list[str]) -> Child:
        environment = {**os.environ, processes.FLOOR_MARK: str(self.folders.site_dir)}
        self.children[name] = Child(
            name, command, self.folders.log(name), environment, self.say, self.write_floor
        )
        return self.children[name]

    def supervise(self, tasks: asyncio.TaskGroup, name: str, command: list[str]) -> Child:
        """Start it, or go on with the adopted one (the command is for its next start)."""
        child = self.children.get(name)
        if child is None:
            child = self.child(name, command)
            child.start()
        child.command = command
        tasks.create_task(child.supervise(), name=name)
        return child

    async def start_store(self, tasks: asyncio.TaskGroup) -> store.Store:
        """The adopted etcd, or a new one on free ports; returns a client of it once it answers.

        Raises:
            Refused: the data is of another version. Unavailable: it does not come up; its log says why.
        """
        child = self.children.get("etcd")
        for tries_left in reversed(range(STORE_STARTS)):
            if child is None:
                choice = etcd.choose()
                client_port, peer_port = etcd.free_ports(2)
                command = etcd.command(choice, self.folders.site_dir, client_port, peer_port)
                self.store_said = {
                    "kind": "etcd",
                    "endpoints": [f"127.0.0.1:{client_port}"],
                    "version": choice.version,
                    "sentence": choice.sentence,
                    "command": command,
                }
                self.say(choice.sentence)
                child = self.child("etcd", command)
                child.start()
            process = child.process
            try:
                port = int(self.store_said["endpoints"][0].rpartition(":")[2])
                await etcd.wait_ready(port, died=functools.partial(_dead, process))
                break
            except Unavailable as exc:
                if process is not None and identity.runs(process):
                    raise  # it runs and does not answer: another beside it would find its data locked
                if not tries_left:
                    raise Unavailable(f"{exc} ({self.folders.log('etcd')})") from exc
                self.say(f"{exc}; once more on other ports")
                child = None
        self.supervise(tasks, "etcd", self.store_said["command"])
        return store.connect(f"etcd://{','.join(self.store_said['endpoints'])}")

    def start_hosts(self, tasks: asyncio.TaskGroup) -> None:
        endpoints = f"etcd://{','.join(self.store_said['endpoints'])}"
        common = [
            "--site",
            self.site,
            "--site-dir",
            str(self.folders.site_dir),
            "--run-dir",
            str(self.run_dir),
            "--store",
            endpoints,
        ]
        port = self.desired.http_port
        for number, host in enumerate(self.desired.hosts, start=1):
            http = ["--http-port", str(port + number if port else 0)]
            self.supervise(
                tasks,
                f"agent-{host}",
                [sys.executable, "-m", "agents.daemon", "--host", host, *common, *http],
            )
        self.supervise(
            tasks,
            "controld",
            [sys.executable, "-m", "controlplane.daemon", *common, "--http-port", str(port)],
        )
        self.write_floor()

    async def settle_incarnation(self, client: store.Store) -> None:
        found = await client.get(self.keys.incarnation)
        epochs = {}
        for key, entry in (await client.range(self.keys.groups)).entries.items():
            group, _, leaf = key.removeprefix(self.keys.groups).partition("/")
            if leaf == "epoch":
                record = model.decode(records.EpochRecord, entry.value)
                epochs[group] = (record.incarnation, record.epoch)
        stored = int(found.value) if found else None
        decision = incarnation.decide(
            stored, epochs, "", keeper_disks(self.folders), time.time_ns() // 1_000_000
        )
        if not decision.reason:
            return
        written = await client.put(
            self.keys.incarnation, str(decision.incarnation).encode(), expect=found.revision if found else 0
        )
        if isinstance(written, store.Lost):
            return  # somebody confirmed it meanwhile: theirs is newer than what we looked at
        if stored is not None:
            self.note(
                f"incarnation of the store raised from {stored} to {decision.incarnation}: {decision.reason}"
            )

    async def apply(self, client: store.Store, desired: Desired) -> None:
        """Write the specs that are not in the store as they are wanted, and delete the ones that are not
        wanted.
        """
        present = dict((await client.range(self.keys.specs)).entries)
        revisions: dict[str, int] = {}
        for spec in desired.specs:
            key, value = self.keys.spec(spec.name), model.encode(spec)
            entry = present.pop(key, None)
            if entry is not None and entry.value == value:
                revisions[spec.name] = entry.revision
                continue
            written = await client.put(key, value)
            assert isinstance(written, store.Committed), "a put without an expectation is never lost"
            revisions[spec.name] = written.revision
            self.say(f"spec of {spec.name} written (revision {written.revision})")
        for key in present:
            await client.delete(key)
            self.say(f"spec {key} deleted")
        self.desired, self.applied, self.revisions = desired, desired.digest, revisions
        self.write_floor()

    async def look(self, client: store.Store) -> None:
        """Follow desired.json and the controller's key, for as long as the floor is up."""
        seen = stamp(self.folders.desired_json)
        while True:
            await asyncio.sleep(LOOK_EVERY_S)
            now = stamp(self.folders.desired_json)
            try:
                if now != seen:
                    wanted = desired_file.read(self.folders)
                    if wanted is not None:
                        await self.apply(client, wanted)
                    seen = now
                url = await controller_url(client, self.keys)
            except HftctlError as exc:
                self.say(f"looked in vain: {exc}")
                await asyncio.sleep(STORE_TRY_AGAIN_S)
                continue
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


def keeper_disks(folders: Folders) -> list[incarnation.KeeperDisk]:
    """hosts/*/keeper.json; one that cannot be read counts as none: its keeper says so itself."""
    disks = []
    for path in sorted(folders.hosts.glob("*/keeper.json")):
        found: Mapping[str, Any] = site_folders.read_json(path) or {}
        tokens = {}
        for group, token in (found.get("floors") or {}).items():
            with contextlib.suppress(KeyError, TypeError, ValueError):
                tokens[group] = (int(token["incarnation"]), int(token["epoch"]))
        disks.append(incarnation.KeeperDisk(path.parent.name, int(found.get("incarnation") or 0), tokens))
    return disks


async def keep(folders: Folders, site: str) -> int:
    """Run the floor; whatever ends it (a signal, an error), take it down."""
    folders.create()
    with locks.take(folders.floor_lock, "floord", "another hft-floord runs this site folder"):
        floord = Floord(folders, site)
        try:
            await floord.run()
        except* Exception as failed:
            # Said before the floor goes down, and not only at the end of the process: that takes seconds.
            floord.say(f"cannot go on: {'; '.join(run.reasons(failed))}")
            raise
        finally:
            for child in floord.children.values():
                child.stopping = True
            floord.say("taking the floor down")
            await asyncio.to_thread(down.stop, folders, timeout_s=DOWN_TIMEOUT_S)
            left = await asyncio.to_thread(down.sweep, folders)
            floord.say(f"down{', but not: ' + str(left) if left else ''}")
            if not left:
                down.remove(folders)
    return 0


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="hft-floord", description="Parent of a laptop floor; started by `hftctl up`."
    )
    parser.add_argument("--site-dir", required=True, type=Path)
    parser.add_argument("--site", default="lab")
    given = parser.parse_args(arguments)
    folders = Folders(given.site_dir)
    # Cancelled at once by a signal: that is what takes the floor down.
    sys.exit(run.until_signalled("floord", lambda stop: keep(folders, given.site), clean_up_s=CLEAN_UP_S))


if __name__ == "__main__":
    main()
