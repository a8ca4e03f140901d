"""The C decoder under AddressSanitizer and UndefinedBehaviorSanitizer: no byte is read that is not its own,
and what it says is what its Python twin says.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FLAGS = [
    "-std=c11",
    "-O1",
    "-g",
    "-shared",
    "-fPIC",
    "-fsanitize=address,undefined",
    "-fno-sanitize-recover=all",
]


def sanitizer() -> str:
    """The runtime that has to be there before Python's own allocations."""
    gcc = shutil.which("gcc")
    if gcc is None:
        pytest.skip("no C compiler")
    found = subprocess.run([gcc, "-print-file-name=libasan.so"], capture_output=True, text=True, check=True)
    if not Path(found.stdout.strip()).is_absolute():
        pytest.skip("gcc has no AddressSanitizer here")
    return found.stdout.strip()


def run(extension: Path, preload: str, *command: str) -> subprocess.CompletedProcess[str]:
    environment = {
        **os.environ,
        "LD_PRELOAD": preload,
        "ASAN_OPTIONS": "detect_leaks=0",  # Python leaves much to the end of its process
        "PYTHONMALLOC": "malloc",  # so that each object has red zones of its own
        "HFT_FUZZ_S": os.environ.get("HFT_FUZZ_NATIVE_S", "15"),
    }
    return subprocess.run(
        [sys.executable, *command, str(extension)], cwd=ROOT, env=environment, capture_output=True, text=True
    )


@pytest.fixture(scope="module")
def preload() -> str:
    return sanitizer()


def build(source: Path, to: Path) -> Path:
    include = sysconfig.get_path("include")
    subprocess.run(["gcc", *FLAGS, f"-I{include}", str(source), "-o", str(to)], check=True)
    return to


def test_almost_right_lines_and_frames_under_the_sanitizers(tmp_path: Path, preload: str) -> None:
    extension = build(ROOT / "hftd/native/market.c", tmp_path / "_market.so")
    done = run(extension, preload, "-m", "tests.fuzz.native_cases")
    assert done.returncode == 0, done.stdout + done.stderr[-4000:]
    assert int(done.stdout.split()[0]) > 500


def test_the_sanitizers_are_awake(tmp_path: Path, preload: str) -> None:
    """A read past the end of a heap block ends the process, by name."""
    source = tmp_path / "_broken.c"
    source.write_text(
        "#include <Python.h>\n"
        'static struct PyModuleDef broken = {PyModuleDef_HEAD_INIT, "_broken", 0, -1, 0};\n'
        "PyMODINIT_FUNC PyInit__broken(void) {\n"
        "    volatile char *four = PyMem_RawMalloc(4);\n"
        "    if (four[4] == 7) return 0;\n"
        "    return PyModule_Create(&broken);\n"
        "}\n"
    )
    load = "import sys; sys.path.insert(0, sys.argv[1].rpartition('/')[0]); import _broken"
    done = run(build(source, tmp_path / "_broken.so"), preload, "-c", load)
    assert done.returncode != 0 and "heap-buffer-overflow" in done.stderr
