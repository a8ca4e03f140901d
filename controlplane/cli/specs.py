"""`hftctl apply -f FILE` and `hftctl diff -f FILE`: make the services of a running floor what a file says, or
say what would change.

They speak to the store that floor.json names, not to an agent: a change must be made on what the store has
now, not on an agent's view of it, and it must be possible while an agent is down. Settings that `hftctl up`
was given on its command line (--tape, --speed, --seed) stay in force over those of the file, so that `apply`
of the floor's own file changes what was changed in the file and nothing else.

Exit codes of apply: 0 applied or nothing to do, 1 refused, not agreed to or not healthy in time, 2 bad file,
3 store unreachable, 4 outcome unknown (the operation is named). Of diff: 0 no difference, 1 differences.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from controlplane.cli import render
from controlplane.cli.declare import Option
from controlplane.cli.options import SettingsOption, SiteDirOption, require_side

if TYPE_CHECKING:
    from controlplane.floor.folders import Folders
    from controlplane.model import ServiceSpec
    from controlplane.specs.apply import Applied, Plan
    from controlplane.store import Keys, Store

FileOption = Annotated[Path, Option("--file", "-f", help="The services file.")]


def diff(file: FileOption, site_dir: SiteDirOption = None) -> int:
    """Say what `apply` of a services file would change."""
    import asyncio

    from controlplane.specs import apply as specs_apply

    floor = _Floor(site_dir, file)

    async def compare() -> Plan:
        client = floor.connect()
        try:
            return await specs_apply.plan(client, floor.keys, floor.specs)
        finally:
            await client.close()

    plan = asyncio.run(compare())
    _show(plan)
    return 1 if plan.steps or plan.blocked else 0


def apply(
    file: FileOption,
    reason: Annotated[str, Option("--reason", help="Why; kept with the operation.")] = "",
    yes: Annotated[bool, Option("--yes", "-y", help="Apply without asking.")] = False,
    wait: Annotated[
        bool, Option("--wait/--no-wait", help="Return when all is healthy, or when it is applied.")
    ] = True,
    timeout: Annotated[float, Option("--timeout", min=1, help="Seconds until all has to be healthy.")] = 60.0,
    settings: SettingsOption = "",
    site_dir: SiteDirOption = None,
) -> int:
    """Make the floor's services what a file says; the change is shown first."""
    import asyncio

    require_side(settings)
    floor = _Floor(site_dir, file)
    plan, done = asyncio.run(_apply(floor, reason or f"hftctl apply -f {file}", yes, settings))
    if done is None:
        return 1
    if done.operation is None:
        print("nothing to do: the services are as the file says")
        return 0
    if done.outcome == "succeeded":
        print(f"{len(plan.changes)} changes applied (operation {done.operation})")
        return _wait(floor, done.revisions, timeout) if wait else 0
    _complain(done)
    return 4 if done.outcome == "unknown" else 1


def _show(plan: Plan) -> None:
    """Line by line: what would change, what stays although the file says otherwise, what is in the way."""
    for line in (*map(str, plan.changes), *plan.notes, *plan.blocked):
        render.say(line)


async def _apply(floor: _Floor, reason: str, yes: bool, settings: str) -> tuple[Plan, Applied | None]:
    """None: the operator does not agree, or there is something in the way."""
    import getpass
    import time

    from controlplane.floor import ports
    from controlplane.specs import apply as specs_apply

    client = floor.connect()
    try:
        plan = await specs_apply.plan(client, floor.keys, floor.specs, settings)
        ports.require_free_health_ports(str(floor.file), floor.specs, floor.run, plan.before)
        _show(plan)
        if plan.blocked:
            print("hftctl: not applied; nothing was changed", file=sys.stderr)
            return plan, None
        if plan.steps and not _agreed(yes):
            return plan, None
        done = await specs_apply.apply(
            client,
            floor.keys,
            plan,
            operation=specs_apply.new_operation(),
            actor=getpass.getuser(),
            reason=reason,
            now_ns=time.time_ns(),
        )
        return plan, done
    finally:
        await client.close()


def _agreed(yes: bool) -> bool:
    """Ask at a terminal; elsewhere nobody can answer, so --yes is needed."""
    if yes:
        return True
    if not sys.stdin.isatty():
        print("hftctl: not applied: there is no terminal to ask at; --yes applies it", file=sys.stderr)
        return False
    answer = input("apply? [y/N] ")
    if answer.strip().lower() in ("y", "yes"):
        return True
    print("not applied", file=sys.stderr)
    return False


def _complain(done: Applied) -> None:
    from controlplane.cli import stderr

    if done.outcome == "unknown":
        stderr.say(
            f"it is not known whether the change was applied: {done.reason} (operation {done.operation}; "
            "hftctl diff shows what the store has)"
        )
        return
    stderr.say(f"{'only partly' if done.applied else 'not'} applied (operation {done.operation})")
    for line in [str(conflict) for conflict in done.conflicts] or [done.reason]:
        stderr.say(line)
    if done.applied:
        stderr.say(f"applied: {', '.join(done.applied)}")
    stderr.say(f"not applied: {', '.join(done.not_applied)} (hftctl diff shows what is different now)")


def _wait(floor: _Floor, revisions: Mapping[str, int], timeout_s: float) -> int:
    from controlplane.cli import stderr
    from controlplane.floor import wait

    watch = wait.ComingUp(floor.folders, floor.specs, revisions)
    if watch.wait_healthy(timeout_s):
        return 0
    stderr.say(f"applied, and not healthy after {timeout_s:g} s:")
    for line in watch.why_not():
        stderr.say(line)
    return 1


class _Floor:
    """The running floor, and the file as it would be applied to it.

    Raises:
        InvalidInput: the file. FloorUnreachable: no floor runs here, or it names no store yet.
    """

    folders: Folders
    keys: Keys
    specs: Sequence[ServiceSpec]

    def __init__(self, site_dir: Path | None, file: Path) -> None:
        from controlplane.errors import FloorUnreachable, InvalidInput
        from controlplane.floor import folders

        self.folders = folders.Folders(site_dir or folders.default_site_dir())
        self.folders.require_ours()
        self.file = file
        running, self.url = self.folders.running(), self.folders.store_url()
        if running is None or self.url is None:
            raise FloorUnreachable(f"no floor runs in {self.folders.site_dir} (start one with: hftctl up)")

        from controlplane import store  # with all daemons' settings, 100 ms: not for a floor that is down
        from controlplane.floor import run_file
        from controlplane.specs import read

        self.run = run_file.read(self.folders) or run_file.RunFile("")
        self.specs = read.read(file, self.run.overrides)
        self.keys = store.Keys(running["site"])
        hosts = running.get("hosts", ())
        new_hosts = sorted({host for spec in self.specs for host in spec.hosts} - set(hosts))
        if new_hosts:
            raise InvalidInput(
                f"{file}: host {', '.join(new_hosts)} has no agent on this floor (it has {', '.join(hosts)}; "
                "hftctl down and hftctl up with this file start one)"
            )

    def connect(self) -> Store:
        from controlplane import store

        assert self.url is not None, "a floor without a store was refused"
        return store.connect(self.url)
