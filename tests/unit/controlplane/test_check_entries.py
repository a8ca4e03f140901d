"""`checks` of a service in services.yml: every kind with its defaults, and every mistake with its line."""

from __future__ import annotations

import textwrap

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from controlplane import model
from controlplane.model import ServiceSpec, checks
from controlplane.specs import check_entry, diff, schema
from tests.unit.controlplane import test_specs

HEAD = """\
services:
  - name: bookd
    daemon: bookd
    mode: singleton
    hosts: [alpha]
    checks:
"""
SECOND = """\
  - name: book2
    daemon: bookd
    mode: singleton
    hosts: [beta]
    checks:
"""


def with_checks(text: str, second: str = "") -> str:
    whole = HEAD + textwrap.indent(textwrap.dedent(text), " " * 6)
    return whole + (SECOND + textwrap.indent(textwrap.dedent(second), " " * 6) if second else "")


ALL = """\
- {kind: process, name: runs, deregister_after_s: 5}
- {kind: heartbeat, name: beats, failures: 2}
- {kind: http, name: web, url: "http://{address}:8080/health", interval_s: 5, headers: {X-A: b}, contains: ok}
- {kind: tcp, name: port, address: "127.0.0.1:{health_port}", timeout_s: 1}
- {kind: tcp, name: six, address: "[::1]:80"}
- {kind: zeromq, name: ping, endpoint: requests, expect: PONG}
- {kind: script, name: disk, program: disk-free.sh, arguments: [--min, "10"], user: nobody, memory_mb: 64}
- {kind: ttl, name: batch, ttl_s: 30}
- {kind: file_age, name: export, path: "/srv/{instance}.csv", warning_s: 60, critical_s: 600}
- {kind: clock_offset, name: clock, source: ntp://127.0.0.1, critical_ms: 1}
- {kind: grpc, name: rpc, address: "localhost:50051", grpc_service: a.B}
"""


def test_every_kind_is_read_with_its_defaults_and_comes_back_from_the_store_as_it_was() -> None:
    [spec, _] = test_specs.parsed(with_checks(ALL, "- {kind: alias, name: books, of: bookd}\n"))
    by_name = {each.name: each for each in spec.checks}
    assert [checks.kind_of(each) for each in spec.checks] == [
        *(
            "process",
            "heartbeat",
            "http",
            "tcp",
            "tcp",
            "zeromq",
            "script",
            "ttl",
            "file_age",
            "clock_offset",
            "grpc",
        )
    ]
    web = by_name["web"]
    assert (web.interval_s, web.timeout_s, web.failures, web.successes) == (5.0, 5.0, 3, 1)
    assert (web.initial, web.deregister_after_s) == ("warning", 90.0)
    assert by_name["port"].interval_s == 10.0
    assert by_name["beats"].deregister_after_s == 0, "an instance that is unwell is an operator's to take out"
    assert model.decode(ServiceSpec, model.encode(spec)) == spec


def test_a_service_without_checks_is_stored_and_read_as_one_of_an_earlier_release() -> None:
    [spec] = test_specs.parsed(HEAD.replace("    checks:\n", ""))
    older = msgspec.json.decode(model.encode(spec))
    del older["checks"]
    assert model.decode(ServiceSpec, msgspec.json.encode(older)) == spec


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "- {kind: htp, name: a}",
            ':7: services[0].checks[0].kind: found "htp", wanted one of process, heartbeat, http',
        ),
        ("- {name: a}", ":7: services[0].checks[0].kind: found nothing, wanted one of process"),
        ("- web", ':7: services[0].checks[0]: found "web", wanted a mapping of name, kind'),
        ("- {kind: http, name: a}", ":7: services[0].checks[0].url: found nothing, wanted http://HOST"),
        ("- {kind: tcp, address: 'a:1'}", ":7: services[0].checks[0].name: found nothing, wanted a name"),
        ("- kind: http\n  name: a\n  url: ftp://x/", ':9: services[0].checks[0].url: found "ftp://x/"'),
        (
            "- kind: http\n  name: a\n  url: http://x/\n  intervall_s: 3",
            ":10: services[0].checks[0].intervall_s: found 3",
        ),
        ("- {kind: http, name: a, url: 'http://u:p@x/'}", "wanted http://HOST[:PORT]/"),
        ("- {kind: http, name: a, url: 'http://x:99999/'}", "wanted http://HOST[:PORT]/"),
        ("- {kind: http, name: a, url: 'http://{hots}/'}", "wanted a placeholder of {service}, {instance}"),
        (
            "- {kind: http, name: a, url: 'http://x/', method: POST}",
            'method: found "POST", wanted one of GET, HEAD',
        ),
        ("- {kind: http, name: a, url: 'http://x/', headers: {A: \"b\\r\\nC: d\"}}", "headers: found"),
        (
            "- {kind: tcp, name: a, address: nowhere}",
            'address: found "nowhere", wanted HOST:PORT or unix:/PATH',
        ),
        ("- {kind: tcp, name: a, address: 'x:0'}", "wanted a port from 1 to 65535"),
        (
            "- {kind: tcp, name: a, address: 'x:1', interval_s: 0}",
            "wanted a number of seconds from 0.1 to 86400",
        ),
        ("- {kind: tcp, name: a, address: 'x:1', interval_s: .nan}", "wanted a number of seconds"),
        (
            "- {kind: tcp, name: a, address: 'x:1', failures: 0}",
            "failures: found 0, wanted a whole number from 1 to 10",
        ),
        (
            "- {kind: tcp, name: a, address: 'x:1', failures: true}",
            "failures: found true, wanted a whole number",
        ),
        ("- {kind: tcp, name: a, address: 'x:1', initial: fine}", "wanted one of passing, warning, critical"),
        ("- {kind: tcp, name: A b, address: 'x:1'}", 'name: found "A b", wanted a name of lower-case'),
        (
            "- {kind: script, name: a, program: /bin/sh}",
            "wanted the name of a file in the folder of check scripts",
        ),
        ("- {kind: script, name: a, program: ../x}", "wanted the name of a file in the folder"),
        ("- {kind: script, name: a, program: x, arguments: -v}", 'arguments: found "-v", wanted a list'),
        ("- {kind: script, name: a, program: x, user: 'a b'}", 'user: found "a b"'),
        (
            "- {kind: zeromq, name: a, endpoint: 'udp://x'}",
            'endpoint: found "udp://x", wanted tcp://HOST:PORT',
        ),
        ("- {kind: file_age, name: a, path: x, critical_s: 1}", 'path: found "x", wanted an absolute path'),
        (
            "- {kind: file_age, name: a, path: /x, critical_s: 1, warning_s: 2}",
            "warning_s: found 2.0, wanted less than critical_s (1)",
        ),
        (
            "- {kind: clock_offset, name: a, critical_ms: 1, source: gps}",
            'source: found "gps", wanted one of kernel',
        ),
        (
            "- {kind: clock_offset, name: a, critical_ms: 1, warning_ms: 1}",
            "wanted less than critical_ms (1)",
        ),
        (
            "- {kind: alias, name: a, of: nobody}",
            ':7: services[0].checks[0].of: found "nobody", wanted a service of this file',
        ),
        (
            "- {kind: alias, name: a, of: bookd}",
            "wanted a service whose health does not depend on bookd's own",
        ),
        (
            "- {kind: tcp, name: a, address: 'x:1'}\n- {kind: ttl, name: a, ttl_s: 1}",
            ':8: services[0].checks[1].name: found "a", wanted each name once in a service (first',
        ),
        ("- {kind: process, name: a}\n- {kind: process, name: b}", "wanted each kind once in a service"),
        ("{kind: tcp}", 'services[0].checks: found {"kind":"tcp"}, wanted a list of at most 32 checks'),
    ],
)
def test_a_mistake_is_one_line_with_line_field_found_and_wanted(text: str, said: str) -> None:
    found = test_specs.findings(with_checks(text + "\n"))
    assert len(found) == 1, found
    assert said in found[0], found[0]


def test_all_mistakes_are_named_in_one_run() -> None:
    found = test_specs.findings(
        with_checks("- {kind: tcp, name: A, address: x, failures: 99, colour: red}\n")
    )
    assert [line.partition(": found")[0].rpartition(".")[2] for line in found] == [
        "name",
        "address",
        "failures",
        "colour",
    ]


def test_more_checks_than_a_service_may_have_are_refused() -> None:
    text = "".join(f"- {{kind: ttl, name: t{n}, ttl_s: 1}}\n" for n in range(33))
    assert "found 33 checks, wanted at most 32" in test_specs.findings(with_checks(text))[0]


def test_services_that_are_aliases_of_each_other_are_refused() -> None:
    """Both critical, neither would ever pass again."""
    text = with_checks("- {kind: alias, name: a, of: book2}\n", "- {kind: alias, name: b, of: bookd}\n")
    assert len(test_specs.findings(text)) == 2


def test_a_member_of_a_group_keeps_its_registration_as_fencing_needs_it() -> None:
    text = with_checks("- {kind: ttl, name: t, ttl_s: 1, deregister_after_s: 5}\n")
    group = """\
  - name: riskd
    daemon: riskd
    mode: active_standby
    hosts: [alpha]
    checks:
      - {kind: ttl, name: t, ttl_s: 1}
"""
    specs = test_specs.parsed(text + group)
    assert [spec.name for spec in specs] == ["bookd", "riskd"]
    [said] = test_specs.findings(text + group.replace("ttl_s: 1}", "ttl_s: 1, deregister_after_s: 5}"))
    assert ":13: services[1].checks[0].deregister_after_s: found 5, wanted 0, or left out" in said


def test_a_changed_check_is_shown_by_its_name_with_what_differs() -> None:
    old = test_specs.parsed(with_checks("- {kind: tcp, name: a, address: 'x:1'}\n"))
    new = test_specs.parsed(
        with_checks("- {kind: tcp, name: a, address: 'x:2'}\n- {kind: ttl, name: b, ttl_s: 1}\n")
    )
    first, second = (str(each) for each in diff.diff(old, new))
    assert first == '~ bookd.checks.a: {"address":"x:1"} -> {"address":"x:2"}'
    assert second.startswith("~ bookd.checks.b: nothing -> {")
    assert diff.diff(new, new) == []


_SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**63), 2**64 - 1),
    st.floats(),
    st.text(max_size=20),
    st.sampled_from(["http://x:1/", "http://[::1/", "a:1", "{host}:1", "{", "ntp://", "passing", "x" * 9000]),
)
_VALUES = st.recursive(
    _SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=6,
)
_CHECK = st.builds(
    lambda kind, fields: {"kind": kind, **fields},
    st.sampled_from([*checks.KINDS, "no kind"]) | _VALUES,
    st.dictionaries(st.sampled_from([*check_entry.WANTED, "colour"]), _VALUES, max_size=8),
)


@given(st.lists(_CHECK | _VALUES, max_size=4) | _VALUES)
def test_any_value_is_read_or_refused_and_never_a_fault_of_ours(given_checks: object) -> None:
    found: list[schema.Problem] = []
    read = check_entry.read(given_checks, "f", "checks", schema.Lines(1, given_checks), found)
    check_entry.of_a_group(given_checks, "f", "checks", schema.Lines(1, given_checks), found)
    assert all("\n" not in str(each) for each in found)
    if not found:
        spec = ServiceSpec("a", "b", model.Mode.SINGLETON, ("alpha",), checks=read)
        assert model.decode(ServiceSpec, model.encode(spec)) == spec


def test_no_field_of_a_kind_is_without_words_for_what_is_wanted() -> None:
    fields = {each.name for kind in checks.KINDS.values() for each in msgspec.structs.fields(kind)}
    assert fields == set(check_entry.WANTED)
