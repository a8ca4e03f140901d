"""Fixtures that every lane shares. The recorded market data is never committed: tests that need it say so and
are skipped without it.
"""

from __future__ import annotations

import os
import signal
from collections.abc import AsyncIterator, Generator, Iterator
from pathlib import Path

import hypothesis
import pytest

from tests.support import floors, twins

hypothesis.settings.register_profile("untimed", deadline=None)
hypothesis.settings.load_profile("untimed")  # no test depends on the machine's speed

ROOT = Path(__file__).resolve().parent.parent


def pytest_configure() -> None:
    """A shell starts its background jobs deaf to Ctrl-C, and every process of a test would inherit it."""
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """With HFT_TEST_STORE, suites run on a floor of that kind; what cannot is in a list with its reason."""
    kind = os.environ.get("HFT_TEST_STORE", "etcd")
    listed = ROOT / "tests" / f"not_on_{kind}.txt"
    if not listed.exists():
        return
    names = [line for line in listed.read_text().splitlines() if line and not line.startswith("#")]
    collected = {item.nodeid.partition("[")[0]: item for item in items}
    files = {name.partition("::")[0] for name in collected}
    gone = [name for name in names if name.partition("::")[0] in files and name not in collected]
    if gone and not any("::" in argument for argument in config.args):
        raise pytest.UsageError(f"{listed}: names what is no test: {', '.join(gone)}")
    left_out = [item for item in items if item.nodeid.partition("[")[0] in names]
    config.hook.pytest_deselected(items=left_out)
    items[:] = [item for item in items if item not in left_out]


def recorded_data() -> Path | None:
    """The folder binance-2024-08-08, from HFT_RECORDED_DATA or beside the checkout."""
    places = (
        [Path(os.environ["HFT_RECORDED_DATA"])]
        if "HFT_RECORDED_DATA" in os.environ
        else [ROOT.parent / "shared" / "data"]
    )
    for place in places:
        folder = place / "binance-2024-08-08"
        if folder.is_dir():
            return folder
    return None


@pytest.fixture(scope="session")
def recorded() -> Path:
    folder = recorded_data()
    if folder is None:
        pytest.skip(
            "recorded market data is not here (set HFT_RECORDED_DATA to the folder that holds "
            "binance-2024-08-08)"
        )
    return folder


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="module")
async def one_loop() -> AsyncIterator[None]:
    """An async fixture of the module's scope: all its tests share one event loop, as all tasks of a real
    process do.
    """
    yield


@pytest.fixture(params=["native", "python"])
def decoder(request: pytest.FixtureRequest) -> Iterator[None]:
    """Twice: once as built, once as on a machine without a C compiler."""
    if request.param == "native":
        twins.need_native()
        yield
    else:
        with twins.python_alone():
            yield


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.failed:
        report.sections += [(f"floor {floor.site_dir}", floor.account()) for floor in floors.open_floors]
    return report


# --- in CI a skip outside the written list fails ------------------------------------------------------------

ALLOWED_SKIPS = ROOT / "tests" / "skips_allowed.txt"
_skipped: list[tuple[str, str]] = []


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if report.skipped and not hasattr(report, "wasxfail"):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        _skipped.append((report.nodeid, reason))


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    if os.environ.get("CI", "").lower() not in ("1", "true"):
        return
    allowed = [line for line in ALLOWED_SKIPS.read_text().splitlines() if line and not line.startswith("#")]
    unwritten = [
        (test, reason) for test, reason in _skipped if not any(test.startswith(each) for each in allowed)
    ]
    if unwritten:
        for test, reason in unwritten:
            print(f"\nskipped, and not in {ALLOWED_SKIPS.relative_to(ROOT)}: {test}: {reason}")
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
