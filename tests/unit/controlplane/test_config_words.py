"""What is typed behind `hftctl config`: values, keys, options that do not fit together; its completion."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from controlplane.cli import config_text, config_words, main
from controlplane.errors import InvalidInput
from tests.support.config_agent import ConfigAgent
from tests.unit.controlplane.test_complete import agrees


@pytest.mark.parametrize(
    ("text", "value"),
    [
        *(("5", 5), ("0.5", 0.5), ("-1", -1), ("true", True), ("no", False), ("null", None), ('"5"', "5")),
        *(('["a", 1]', ["a", 1]), ('{"a": {"b": 1}}', {"a": {"b": 1}}), ("debug", "debug"), ("", "")),
        *(("two words", "two words"), ("12:30:00", "12:30:00"), ("2026-01-01", "2026-01-01"), ("NaN", "NaN")),
        *(
            ("[1", "[1"),
            ("a=b", "a=b"),
            ("0x10", 16),
            ("{a: 1}", "{a: 1}"),
            ("'", "'"),
            ("!!python/x 1", "!!python/x 1"),
        ),
    ],
)
def test_a_value_is_json_or_a_scalar_as_in_services_yml_or_the_text_itself(text: str, value: object) -> None:
    found = config_text.value(text)
    assert (found, type(found)) == (value, type(value))


def test_where_a_text_stands_what_is_typed_is_one() -> None:
    """Decimals are texts in a document, and nobody types quotes at 3 a.m."""
    stands = {"max_position": "1000", "burst": 5, "breaker": {"name": "x"}, "markets": ["spot"]}
    typed: dict[str, str | None] = {
        "max_position": "500.50",
        "burst": "6",
        "breaker.name": "true",
        "markets.0": "7",
        "other": "8",
        "gone": None,
    }
    assert config_text.values(typed, stands) == {
        "max_position": "500.50",
        "burst": 6,
        "breaker.name": "true",
        "markets.0": "7",
        "other": 8,
        "gone": None,
    }
    assert config_text.values({"max_position": '"500"'}, stands) == {"max_position": "500"}
    assert config_text.values({"max_position": "null"}, stands) == {"max_position": None}


@pytest.mark.parametrize(
    ("text", "type", "value"),
    [
        ("5", "string", "5"),
        ("yes", "bool", True),
        ("5", "int", 5),
        ("5", "float", 5.0),
        ('{"a":1}', "json", {"a": 1}),
    ],
)
def test_a_keys_value_is_of_the_type_that_was_named(text: str, type: str, value: object) -> None:
    assert repr(config_text.of_type(text, type)) == repr(value)


@pytest.mark.parametrize(
    ("text", "type"),
    [("5", "bool"), ("5.5", "int"), ("x", "int"), ("x", "float"), ("inf", "float"), ("{", "json")],
)
def test_a_value_of_another_type_is_refused_with_both(text: str, type: str) -> None:
    with pytest.raises(InvalidInput, match=f'found "{text}", wanted one of type {type}'.replace("{", "\\{")):
        config_text.of_type(text, type)


@pytest.mark.parametrize("key", ["", "a/b", "a\nb", "a b", ".a", "-a", "x" * 129, "ü"])
def test_what_can_be_no_key_is_refused_in_one_line_before_anything_is_asked(
    key: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["config", "set", f"/{key}", "5", "--reason", "x", "--site-dir", str(tmp_path)]
    assert main.run(words) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "wanted a letter, digit or _" in said


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("set omsd a=5", "--reason is missing"),
        ("set omsd --reason x", "nothing to set"),
        ("set omsd a --reason x", "wanted PATH=VALUE"),
        ("set omsd a= --reason x", "--unset a"),
        ("set omsd a=1 a=2 --reason x", "given twice"),
        ("set omsd a=1 --delete --reason x", "of a plain key"),
        ("set omsd a=1 --ttl 5s --reason x", "of a plain key"),
        ("set omsd a=1 --canary omsd-alpha-1 --reason x", "wanted --rollout too"),
        ("set omsd a=1 --rollout --watch soon --reason x", '--watch "soon": not a duration'),
        ("set omsd a=1 --rollout --revert-when rejects --reason x", "wanted 'NAME > VALUE'"),
        ("set /a --reason x", "found 0 values"),
        ("set /a 1 2 --reason x", "found 2 values"),
        ("set /a 1 --delete --reason x", "--delete takes no value"),
        ("set /a 1 --rollout --reason x", "of a service's document"),
        ("set /a 1 --ttl soon --reason x", '--ttl "soon": not a duration'),
        ("rollback omsd", "--reason is missing"),
    ],
)
def test_what_does_not_fit_together_is_refused_before_anything_is_asked(
    line: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code = main.run(["config", *line.split(), "--site-dir", str(tmp_path)])
    err = capsys.readouterr().err
    assert code in (2, 3) and err.count("\n") == 1
    assert code == 2 and said in err, err


# --- completion ---------------------------------------------------------------------------------------------


def test_a_shell_is_told_services_keys_and_paths(agent: ConfigAgent, hftctl: Any) -> None:
    hftctl("set", "/limit", "5", "--reason", "x")
    given = {"site_dir": agent.site_dir, "target": "strategy-mm"}
    assert list(config_words.targets(given)) == ["auditd", "strategy-mm", "/limit"]
    assert config_words.paths(given)["breaker.failures"] == "5"
    assert "skew_ppm=" in config_words.assignments(given)
    assert config_words.instances(given) == {"strategy-mm-alpha-1": "running"}


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
@pytest.mark.parametrize(
    ("line", "wanted"),
    [
        ("config get |a", ["auditd"]),
        ("config get |", ["auditd", "strategy-mm", "/limit"]),
        ("config get |/", ["/limit"]),
        ("config get strategy-mm |br", ["breaker.failures"]),
        ("config set strategy-mm |sk", ["skew_ppm="]),
        ("config set strategy-mm skew_ppm --unset |br", ["breaker.failures"]),
        ("config history |", ["auditd", "strategy-mm"]),
        ("config rollback auditd --canary |", ["auditd-alpha-1", "auditd-beta-1"]),
    ],
)
def test_the_answer_to_a_shell_is_typers_too(
    agent: ConfigAgent, hftctl: Any, shell: str, line: str, wanted: list[str]
) -> None:
    hftctl("set", "/limit", "5", "--reason", "x")
    before, _, beginning = line.partition("|")
    told = agrees(shell, before.split(), beginning)
    assert told is not None and all(word in told for word in wanted), told
