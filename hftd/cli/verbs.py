"""The verbs of hftctl that hftd brings (entry point group `hftctl.verbs`): `data verify FILES` and `audit
verify [FOLDER]`. Neither needs a floor.

Exit 0 clean, 1 findings, 2 unreadable. `hftctl --help` imports this file: what a verb works with is imported
when it runs.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

from controlplane.cli import render
from controlplane.cli.declare import Argument, Noun, Option
from controlplane.cli.options import Output, OutputOption, SiteDirOption
from controlplane.errors import HftctlError
from controlplane.floor import folders as site_folders

if TYPE_CHECKING:
    from hftd.engine.audit_chain import Head

COLUMNS = (
    "market",
    "symbol",
    "messages",
    "level_updates",
    "applied",
    "stale",
    "gaps",
    "resyncs",
    "crossed",
    "quotes_compared",
    "quotes_equal",
    "clock_offset_ms",
    "waiting",
    "snapshots_compared",
    "snapshots_equal",
)
STORE_ASK_S = 2.0


def data_verify(
    files: Annotated[list[Path], Argument(help="Recorded files, or folders of them.")],
    output: OutputOption = Output.table,
) -> int:
    """Read a capture through the product's own adapter and book, and say what is wrong with it."""
    from hftd.venues import data_verify as verifying

    report = verifying.verify(files)
    found = report.plain()
    if output is Output.table:
        render.show(found["instruments"], output, COLUMNS)
        for bad in found["bad_lines"]:
            render.say(f"{bad['file']}:{bad['line']}: {bad['reason']}")
        for line in (*report.findings, *report.notes):
            render.say(line)
    else:
        render.show(found, output)
        for line in report.findings:
            print(line, file=sys.stderr)
    return 0 if report.clean else 1


def audit_verify(
    folder: Annotated[
        Optional[Path], Argument(help="The log's folder; that of the floor when left out.")
    ] = None,
    key: Annotated[
        Optional[list[Path]],
        Option("--key", help="A copy of audit.pub that you trust, kept off the host; may be given again."),
    ] = None,
    at_least: Annotated[
        Optional[str], Option("--at-least", help="SEQ:HASH of an earlier check: the log must still have it.")
    ] = None,
    output: OutputOption = Output.table,
    site_dir: SiteDirOption = None,
) -> int:
    """Find a changed, a deleted or a reordered record, a cut tail and, with --key, a forged log."""
    from hftd.cli import audit_text
    from hftd.storage import audit_assurance as assuring
    from hftd.storage import audit_key as keys
    from hftd.storage import audit_verify as verifying

    floor = site_folders.Folders(site_dir or site_folders.default_site_dir())
    if folder is None:
        floor.require_ours()
    where = folder.expanduser().resolve() if folder is not None else floor.site_dir / "audit"
    owner = floor if where == floor.site_dir / "audit" else site_folders.Folders(where.parent)
    given = [public for path in key or () for public in keys.read_public(path.expanduser())]
    kept = [] if at_least is None else [assuring.parse_at_least(at_least)]
    # Signatures and head first, then the folder: auditd may go on writing meanwhile.
    signatures_path = where.parent / "audit.signatures"
    signatures = assuring.read(signatures_path, given, where.parent / "audit.pub")
    head, head_from = _stored_head(owner), "store"
    if head is None:
        head, head_from = verifying.read_head(where.parent / "audit.head"), "audit.head"
    heads = kept if head is None else [*kept, verifying.Remembered(head, "the head")]
    found = assuring.hold(where, heads, signatures, signatures_path)
    if head is None and found.signed is not None:
        head, head_from = found.signed.head, "audit.signatures"
    said = {
        "folder": str(where),
        "head": None if head is None else {"seq": head.seq, "hash": head.hash, "from": head_from},
        "tail": "not checked" if head is None else f"checked against {head_from}",
        "findings": [
            {"kind": f.kind, "file": f.file, "line": f.line, "text": f.text} for f in found.findings
        ],
        "records": found.last.seq,
        "signatures": audit_text.plain(found),
    }
    if output is Output.table:
        for finding in found.findings:
            render.say(str(finding))
        whole = "whole" if not found.findings else f"{len(found.findings)} findings"
        tail = "not checked" if head is None else f"checked at record {head.seq} ({head_from})"
        render.say(f"{where}: {whole}; tail {tail}")
        for line in audit_text.lines(found, list(key or ())):
            render.say(line)
    else:
        render.show(said, output)
    return 1 if found.findings or head is None else 0


data = Noun("Recorded market data.", {"verify": data_verify})
audit = Noun("The audit log.", {"verify": audit_verify})


def _stored_head(floor: site_folders.Folders) -> Head | None:
    """The head that the floor's agent copied to the store; None when that store cannot be reached."""
    import asyncio

    from controlplane import store
    from hftd.storage import audit_verify as verifying

    url, running = floor.store_url(), floor.running()
    if url is None or running is None:
        return None

    async def ask() -> Head | None:
        client = store.connect(url)
        try:
            heads = await asyncio.wait_for(client.range(store.Keys(running["site"]).audit_heads), STORE_ASK_S)
        finally:
            await client.close()
        parsed = [verifying.parse_head(entry.value) for entry in heads.entries.values()]
        return max(parsed, key=lambda head: head.seq, default=None)

    try:
        return asyncio.run(ask())
    except (HftctlError, TimeoutError, ValueError):  # ValueError: a head that is not JSON
        return None
