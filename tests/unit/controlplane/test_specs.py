"""services.yml: a good file gives complete specs; a bad one is refused as a whole, each fault with its line,
its field, what was found and wanted.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controlplane.errors import InvalidInput
from controlplane.model import Mode, ServiceSpec
from controlplane.model.specs import DaemonKind
from controlplane.specs import diff, read


@dataclass(frozen=True)
class Book:
    depth: int = 20
    speed: Literal["1", "max"] = "1"
    tape: tuple[str, ...] = ()


@dataclass(frozen=True)
class Risk:
    tops: str = field(default="bookd", metadata={"service": "bookd"})

    limit: float = 1.0

    def __post_init__(self) -> None:
        if self.limit <= 0:
            raise ValueError(f"limit {self.limit}: more than 0 wanted")


@dataclass(frozen=True)
class Execution:
    orders: str = field(default="riskd", metadata={"service": "riskd", "fence": True})
    tops: str = field(default="bookd", metadata={"service": "bookd", "fence": True})


AROUND = read.Surroundings(
    kinds={
        "bookd": DaemonKind("bookd", Book, frozenset({Mode.SINGLETON, Mode.REPLICAS}), "bookd"),
        "riskd": DaemonKind("riskd", Risk, frozenset({Mode.ACTIVE_STANDBY}), "riskd"),
        "execd": DaemonKind("execd", Execution, frozenset({Mode.ACTIVE_STANDBY}), "execd"),
    },
    hosts=("alpha", "beta"),
    cpus=frozenset({0, 1, 2, 3, 8}),
)

GOOD = """\
services:
  - name: bookd
    daemon: bookd
    mode: singleton
    hosts: [alpha]
    settings:
      depth: 5
  - name: riskd
    daemon: riskd
    mode: active_standby
    hosts: [alpha, beta]
    cpus: [2, 3]
  - name: execd
    daemon: execd
    mode: active_standby
    hosts: [beta]
"""


def parsed(text: str, overrides: dict[str, dict[str, object]] | None = None) -> list[ServiceSpec]:
    found = read.parse(text, "services.yml", AROUND, overrides)
    assert isinstance(found, list), [str(f) for f in found.all]
    return found


def findings(text: str) -> list[str]:
    found = read.parse(text, "services.yml", AROUND)
    assert isinstance(found, read.Problems)
    return [str(finding) for finding in found.all]


def test_a_good_file_gives_complete_specs_with_what_each_service_uses_and_fences() -> None:
    bookd, riskd, execd = parsed(GOOD)
    assert bookd.settings == {"depth": 5, "speed": "1", "tape": []}
    assert (riskd.mode, riskd.hosts, riskd.cpus) == (Mode.ACTIVE_STANDBY, ("alpha", "beta"), (2, 3))
    assert riskd.uses == ("bookd", "riskd")
    assert execd.uses == ("riskd", "bookd", "execd")
    assert execd.fences == ("riskd",), "a singleton has no epoch to fence with"


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        (
            "daemon: bookd",
            "daemon: bokd",
            'services.yml:3: services[0].daemon: found "bokd", wanted one of bookd, execd, riskd',
        ),
        (
            "name: riskd",
            "name: bookd",
            'services.yml:8: services[1].name: found "bookd", wanted each service once (first on line 2)',
        ),
        (
            "hosts: [alpha, beta]",
            "hosts: [alpha, alpha]",
            "each host once: riskd-alpha-1 would be a duplicate instance",
        ),
        (
            "    cpus: [2, 3]",
            "    cpu: [2, 3]",
            'services.yml:12: services[1].cpu: found "cpu", wanted one of name, daemon, mode',
        ),
        (
            "cpus: [2, 3]",
            "cpus: [2, 64]",
            "services.yml:12: services[1].cpus[1]: found 64, wanted a CPU that exists; online here: 0-3,8",
        ),
        (
            "cpus: [2, 3]",
            "cpus: all",
            'services.yml:12: services[1].cpus: found "all", wanted a list of CPU numbers',
        ),
        (
            "mode: singleton",
            "mode: active_standby",
            'found "active_standby", wanted one of replicas, singleton (what bookd can run as)',
        ),
        ("mode: singleton", "mode: best", 'services.yml:4: services[0].mode: found "best", wanted'),
        (
            "hosts: [alpha]",
            "hosts: [gamma]",
            'services.yml:5: services[0].hosts[0]: found "gamma", wanted one of alpha, beta',
        ),
        (
            "hosts: [alpha]\n",
            "hosts: [alpha, beta]\n",
            'found "2 hosts x 1", wanted one instance, as the mode is singleton',
        ),
        (
            "depth: 5",
            "deep: 5",
            'services.yml:7: services[0].settings.deep: found "deep", wanted one of depth, speed, tape',
        ),
        (
            "depth: 5",
            "depth: many",
            'services.yml:7: services[0].settings.depth: found "many", wanted a whole number',
        ),
        ("depth: 5", "speed: 7", "services.yml:7: services[0].settings.speed: found 7, wanted one of 1, max"),
        ("depth: 5", "tape: [a, 3]", "services.yml:7: services[0].settings.tape[1]: found 3, wanted a text"),
        ("    cpus: [2, 3]", "    settings: {limit: 0}", "limit 0.0: more than 0 wanted"),
        (
            "    cpus: [2, 3]",
            "    settings: {tops: riskd}",
            'found "riskd", wanted a service of this file that runs bookd (bookd)',
        ),
        ("    cpus: [2, 3]", "    instances_per_host: 0", "found 0, wanted a whole number from 1 to 64"),
        (
            "    cpus: [2, 3]",
            "    health_port: 65535",
            "found 65535, wanted a port from 1 to 65534, or 0 for none",
        ),
        ("    cpus: [2, 3]", "    health_port: http", 'health_port: found "http", wanted a port'),
        ("    cpus: [2, 3]", "    sched: turbo", 'found "turbo", wanted one of other, batch, idle, fifo, rr'),
        ("    cpus: [2, 3]", "    mode: active_standby", "wanted each key once (first on line 10)"),
        (
            "name: bookd",
            "name: Book_d",
            'services.yml:2: services[0].name: found "Book_d", wanted a name of lower-case letters',
        ),
        ("services:", "servces:", 'services.yml:1: servces: found "servces", wanted services'),
        ("mode: singleton", "mode: [", "services.yml:6"),
    ],
)
def test_a_bad_file_is_refused_with_line_field_found_and_wanted(old: str, new: str, said: str) -> None:
    assert old in GOOD
    assert any(said in finding for finding in findings(GOOD.replace(old, new, 1))), findings(
        GOOD.replace(old, new, 1)
    )


MERGED = """
services:
  - &common
    name: bookd
    daemon: bookd
    mode: singleton
    hosts: [alpha]
    settings: {depth: 5}
  - <<: *common
    name: riskd
    daemon: riskd
    mode: active_standby
    settings: {}
"""


def test_a_merge_key_brings_what_is_not_given_itself_and_faults_name_the_line_it_stands_on() -> None:
    bookd, riskd = parsed(MERGED)
    assert (riskd.name, riskd.mode, riskd.hosts) == ("riskd", Mode.ACTIVE_STANDBY, ("alpha",))
    assert bookd.settings["depth"] == 5
    several = MERGED.replace("<<: *common", "<<: [{hosts: [beta]}, *common]")
    assert parsed(several)[1].hosts == ("beta",), "of several the first one counts"
    [said] = findings(MERGED.replace("hosts: [alpha]", "hosts: [gamma]"))[1:]
    assert said.startswith("services.yml:7: services[1].hosts")


HUGE = "0x" + "f" * 4300


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("depth: 5", f"depth: {HUGE}", "services.yml:7: services[0].settings.depth: found"),
        ("depth: 5", f"depth: {HUGE}", "wanted a whole number of at most 64 bits"),
        ("depth: 5", f"depth: {'9' * 4400}", "services.yml:7: services[0].settings.depth: found"),
        ("depth: 5", "depth: 1:2:3", 'found "1:2:3", wanted a number, or a text in quotes'),
        ("depth: 5", "depth: 190:20:30.15", "base 60"),
        ("depth: 5", f"depth: {':'.join(['59'] * 3000)}", "base 60"),
        ("depth: 5", f"? {HUGE}\n      : 5", "wanted a text as key"),
        ("depth: 5", "1:2:3: 5", "wanted a text as key"),
        ("depth: 5", "[a, b]: 5", "found seq, wanted a text as key"),
        ("depth: 5", "depth: 2001-13-45", "services.yml:7: services[0].settings.depth"),
        ("depth: 5", "depth: !!python/object:os.system x", "services.yml:7: services[0].settings.depth"),
        ("depth: 5", "depth: !!binary '%'", "services.yml:7: services[0].settings.depth"),
        ("depth: 5", "<<: 5", 'found "5", wanted a mapping, or a list of them, to merge'),
        ("depth: 5", "<<: [5]", 'found "5", wanted a mapping'),
        ("depth: 5", "? [a]\n      : 5", "found seq, wanted a text as key"),
    ],
)
def test_what_yaml_makes_of_odd_words_is_refused_where_it_stands(old: str, new: str, said: str) -> None:
    assert GOOD.count(old) == 1
    found = findings(GOOD.replace(old, new))
    assert any(said in line for line in found), found
    assert all(line.count("\n") == 0 and len(line) < 400 for line in found)


def test_a_merge_of_itself_is_refused() -> None:
    assert "levels inside each other" in findings("services:\n  - &a {<<: *a, name: x}\n")[0]


ODD = [
    "services:",
    "  - ",
    "name: bookd",
    "daemon: bookd",
    "mode: singleton",
    "<<: *a",
    "&a ",
    "*a",
    "[",
    "]",
]
ODD += [
    "{",
    "}",
    ": ",
    "\n",
    "    ",
    "!!int ",
    "!!set ",
    "0x" + "f" * 40,
    "1:2:3",
    "2001-01-01",
    "~",
    "'",
    "? ",
]
ODD += [
    "settings:",
    "depth: ",
    "1e400",
    ".nan",
    "\x00",
    "\x85",
    "- ",
    "\t",
    "#",
    "%YAML 1.1\n---\n",
    "---\n",
    "&",
]


@given(text=st.one_of(st.lists(st.sampled_from(ODD), max_size=30).map("".join), st.text(max_size=60)))
def test_any_text_is_read_or_refused_and_never_a_fault_of_ours(text: str) -> None:
    for whole in (text, GOOD + text, GOOD.replace("{depth: 5}", text)):
        found = read.parse(whole, "services.yml", AROUND)
        if isinstance(found, read.Problems):
            assert found.all and all("\n" not in str(problem) for problem in found.all)


def test_each_instance_has_a_health_port_of_its_own() -> None:
    given = GOOD.replace("    cpus: [2, 3]", "    health_port: 8080")
    _, riskd, execd = parsed(given)
    assert [(slot.instance, port) for slot, port in riskd.health_ports()] == [
        ("riskd-alpha-1", 8080),
        ("riskd-beta-1", 8081),
    ]
    assert execd.health_ports() == [], "none is asked for"
    (finding,) = findings(given + "    health_port: 8081\n")
    assert (
        finding.startswith("services.yml:17: services[2].health_port: found ")
        and "8081 for execd-beta-1" in finding
        and "riskd-beta-1 has it" in finding
    )


def test_all_faults_of_a_file_are_named_in_one_run_in_the_order_of_lines() -> None:
    found = findings(
        GOOD.replace("daemon: bookd", "daemon: x")
        .replace("[2, 3]", "[99]")
        .replace("hosts: [beta]", "hosts: beta")
    )
    assert [line.split(":")[1] for line in found] == ["3", "12", "16"]


def test_every_finding_is_one_line_however_long_the_value() -> None:
    (finding,) = findings(GOOD.replace("depth: 5", f"depth: {'x' * 5000}"))
    assert "\n" not in finding and len(finding) < 300


@pytest.mark.parametrize("text", ["", "services: []", "- a", "just words", "services: 3"])
def test_a_file_of_another_shape_is_refused(text: str) -> None:
    assert findings(text)


def test_settings_that_the_store_would_not_take_are_refused_with_both_sizes() -> None:
    [said] = findings(GOOD.replace("depth: 5", f"tape: [{'x' * 100_000}]"))
    assert said.startswith("services.yml:6: services[0].settings: found 1000")
    assert "wanted at most 65536 bytes" in said


def test_settings_from_the_command_line_win_over_the_files_and_are_checked_like_them() -> None:
    assert parsed(GOOD, {"bookd": {"tape": ["/t"], "speed": "max"}})[0].settings == {
        "depth": 5,
        "speed": "max",
        "tape": ["/t"],
    }
    refused = read.parse(
        GOOD.replace("depth: 5", "deep: 5"), "services.yml", AROUND, {"bookd": {"speed": "7"}}
    )
    assert isinstance(refused, read.Problems)
    assert [str(each) for each in refused.all] == [
        'command line: --speed: found "7", wanted one of 1, max',
        'services.yml:7: services[0].settings.deep: found "deep", wanted one of depth, speed, tape',
    ]


def test_a_number_is_taken_where_a_choice_of_texts_is_wanted() -> None:
    assert parsed(GOOD.replace("depth: 5", "speed: 1"))[0].settings["speed"] == "1"


def test_a_file_that_is_not_there_is_named() -> None:
    with pytest.raises(InvalidInput, match=r"/nowhere/services\.yml: cannot be read"):
        read.read(Path("/nowhere/services.yml"))


def test_hosts_come_from_the_inventory_beside_the_file(tmp_path: Path) -> None:
    (tmp_path / "hosts.yml").write_text(
        "all:\n  children:\n    strategy:\n      hosts:\n        s1:\n        s2: {}\n"
    )
    assert read.known_hosts(tmp_path / "services.yml") == ("s1", "s2")
    assert read.known_hosts(tmp_path / "elsewhere" / "services.yml") == ("alpha", "beta")


def test_a_cpu_listing_of_the_kernel_is_read(tmp_path: Path) -> None:
    (tmp_path / "online").write_text("0-2,5\n")
    assert read.online_cpus(tmp_path / "online") == {0, 1, 2, 5}


def test_a_diff_names_each_changed_setting_and_nothing_when_nothing_changed() -> None:
    before = parsed(GOOD)
    assert diff.diff(before, parsed(GOOD)) == []
    after = parsed(GOOD.replace("depth: 5", "depth: 6").replace("cpus: [2, 3]", "cpus: [1]"))
    assert [str(change) for change in diff.diff(before, after)] == [
        "~ bookd.settings.depth: 5 -> 6",
        "~ riskd.cpus: [2,3] -> [1]",
    ]


def test_a_diff_names_services_that_come_and_go() -> None:
    before = parsed(GOOD)
    assert [str(change) for change in diff.diff(before, before[:2])] == ["- execd"]
    assert [str(change) for change in diff.diff(before[:2], before)] == ["+ execd"]


def test_the_labs_own_file_is_good() -> None:
    root = Path(__file__).parents[3] / "inventory"
    for site in ("lab", "staging", "production"):
        found = read.read(root / site / "services.yml")
        assert [spec.name for spec in found] == [
            "simd",
            "marketd",
            "bookd",
            "strategy-mm",
            "riskd",
            "omsd",
            "execd",
            "positiond",
            "auditd",
        ]
