"""`hftctl config edit`: a service's document in the operator's editor.

The file lies in a temporary folder of the operator alone and is removed on every path; what was edited and
could not be sent is kept in a file that is named. Nothing is sent without the change having been shown, nor
when the editor fails, or the file is unchanged or empty.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from controlplane.cli import agent_client, config_ask, config_change, config_file, config_text, stderr
from controlplane.cli.config_change import How
from controlplane.errors import InvalidInput, Permanent, Refused

EDITORS = ("VISUAL", "EDITOR")
REASON = "# reason:"


def edit(floor: agent_client.Floor, service: str, reason: str, how: How) -> int:
    """Exit code 0: sent and in force, or unchanged; 2: an editor that failed, an empty file, or a document
    that is not right and was not edited again; else config_change's.
    """
    found = config_ask.service(floor, service)
    if found["document"] is None:
        raise Refused(
            f"{service}: revision {found['revision']} cannot be read in the store: put all of it with "
            f"`hftctl config apply {service} -f FILE`, or roll back"
        )
    text = header(found, reason) + config_file.write(found["document"])
    with _folder() as folder:
        path = folder / f"{service}.yml"
        _write(path, text)
        try:
            while True:
                _run_editor(path)
                done = _send(floor, service, path, found, reason, how)
                if done is not None:
                    return done
        except Permanent:
            raise
        except BaseException:  # a lost floor or Ctrl-C costs nobody what they wrote
            _keep(path, service, text)
            raise


def header(found: dict[str, Any], reason: str) -> str:
    """What stands above the document, for who edits it."""
    lines = [
        f"{found['service']}, revision {found['revision']}{config_text.by(found)}",
        "Saved, the change is shown before it is sent. Unchanged, or with an editor that fails, nothing is.",
        "What is left out goes back to the daemon's default.",
    ]
    if found["restart"]:
        lines.append(f"A change of these restarts instances: {', '.join(found['restart'])}")
    lines += ["Why it is changed (wanted; kept in the history):"]
    return "".join(f"# {' '.join(line.split())}\n" for line in lines) + f"{REASON} {reason}\n\n"


def reason_in(text: str) -> str:
    for line in text.splitlines():
        if line.startswith(REASON):
            return line.removeprefix(REASON).strip()
    return ""


# --- one round ----------------------------------------------------------------------------------------------


def _send(
    floor: agent_client.Floor, service: str, path: Path, found: dict[str, Any], reason: str, how: How
) -> int | None:
    """The exit code, or None: to be edited again."""
    content = path.read_bytes() if path.exists() else b""
    try:
        document = config_file.parse(content, path.name)
        why = reason_in(content.decode()) or reason
        if document.value == found["document"]:
            how.say(f"{service}: unchanged, nothing is sent")
            return 0
        if not why and not how.dry_run:
            raise config_file.Bad(f'{path.name}: no reason: wanted one behind "{REASON}", or --reason')
        asked = {"kind": "edit", "document": document.value, "base": found["revision"]}
        try:
            code = config_change.carry_out(
                floor,
                service,
                asked,
                how._replace(reason=why),
                shown_first=True,
                conflict=lambda: _conflict(found["document"], document.value),
            )
        except InvalidInput as exc:
            raise config_file.Bad(document.located(str(exc))) from exc
        except Refused:
            _keep(path, service)
            raise
    except config_file.Bad as exc:
        if exc.empty:
            raise InvalidInput(f"{service}: the file is empty, nothing is sent") from exc
        _again(service, path, str(exc))
        return None
    if code in (3, 4) or (code == 1 and not how.dry_run):
        _keep(path, service)
    return code


def _again(service: str, path: Path, said: str) -> None:
    """At a terminal, ask; elsewhere, or when the answer is no, the text is kept and it is an error."""
    if sys.stdin.isatty():
        stderr.say(said)
        print("edit it again? [Y/n] ", end="", file=sys.stderr, flush=True)
        if sys.stdin.readline().strip().lower() in ("", "y", "yes"):
            return
        _keep(path, service)
        raise InvalidInput(f"{service}: nothing was sent")
    _keep(path, service)
    raise InvalidInput(said)


def _conflict(before: dict[str, Any], mine: dict[str, Any]) -> None:
    """Their side is said already: now one's own."""
    from controlplane.config import documents

    stderr.say("yours:")
    rows = [
        {"path": each.path, "old": each.old, "new": each.new} for each in documents.difference(before, mine)
    ]
    stderr.say(config_text.changes(rows, ()))


def _keep(path: Path, service: str, unless: str = "") -> None:
    """A copy of what was edited, in a file that is named."""
    with contextlib.suppress(OSError):
        content = path.read_bytes()
        if content == unless.encode():
            return
        descriptor, kept = tempfile.mkstemp(prefix=f"hftctl-config-{service}-", suffix=".yml")
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
        stderr.say(f"what was edited is kept in {kept} (hftctl config apply {service} -f {kept} sends it)")


# --- file and editor ----------------------------------------------------------------------------------------


@contextlib.contextmanager
def _folder() -> Iterator[Path]:
    """Gone when it is left, also by SIGTERM and SIGHUP."""
    before = {each: signal.signal(each, _leave) for each in (signal.SIGTERM, signal.SIGHUP)}
    folder = Path(tempfile.mkdtemp(prefix="hftctl-"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        for number, handler in before.items():
            signal.signal(number, handler)


def _leave(number: int, frame: object) -> None:
    raise KeyboardInterrupt


def _write(path: Path, text: str) -> None:
    with os.fdopen(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "w", encoding="utf-8") as file:
        file.write(text)


def _run_editor(path: Path) -> None:
    """Raises InvalidInput: it cannot be run, or has failed; nothing is sent."""
    chosen = next((os.environ[name] for name in EDITORS if os.environ.get(name, "").strip()), "vi")
    try:
        words = shlex.split(chosen)
    except ValueError as exc:
        raise InvalidInput(f"the editor {chosen!r} cannot be run: {exc} (set EDITOR)") from exc
    before = signal.signal(signal.SIGINT, _of_the_editor)  # not SIG_IGN, which the editor would inherit
    try:
        code = subprocess.run([*words, str(path)], check=False).returncode
    except OSError as exc:
        raise InvalidInput(f"the editor {chosen!r} cannot be run: {exc.strerror} (set EDITOR)") from exc
    finally:
        signal.signal(signal.SIGINT, before)
    if code != 0:
        ended = f"ended with {code}" if code > 0 else f"was ended by {signal.Signals(-code).name}"
        raise InvalidInput(f"the editor {chosen!r} {ended}: nothing is sent")


def _of_the_editor(number: int, frame: object) -> None:
    """Ctrl-C in an editor is the editor's."""
