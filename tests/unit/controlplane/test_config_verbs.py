"""`hftctl config` against an agent's routes over a store in memory: what is shown, sent and waited for."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from controlplane.cli import config_ask
from controlplane.config import staged
from controlplane.http import answers
from controlplane.operations import log
from tests.support.agents import KEYS
from tests.support.config_agent import ConfigAgent, Terminal

# --- looking ------------------------------------------------------------------------------------------------


def test_get_shows_the_document_what_is_in_force_and_what_a_change_costs(hftctl: Any) -> None:
    code, said, _ = hftctl("get", "strategy-mm")
    assert code == 0
    assert "strategy-mm: revision 1 (as services.yml says)" in said
    assert "strategy-mm-alpha-1: revision 1 in force" in said
    assert [line.split()[:2] for line in said.splitlines() if line.startswith("breaker.failures")] == [
        ["breaker.failures", "5"]
    ]
    code, said, _ = hftctl("get", "strategy-mm", "-o", "json")
    found = json.loads(said)
    assert list(found)[:4] == ["service", "revision", "document", "in_force"]
    assert found["in_force"] == {"strategy-mm-alpha-1": 1}
    assert found["document"]["breaker"]["failures"] == 5


@pytest.mark.parametrize(
    ("path", "words", "said"),
    [
        ("skew_ppm", [], "100\n"),
        ("order_notional", [], "100\n"),
        ("order_notional", ["-o", "json"], '"100"\n'),
        ("markets.1", [], "usdm\n"),
        ("markets", [], '["spot", "usdm"]\n'),
        ("breaker.failures", ["-o", "json"], "5\n"),
    ],
)
def test_get_with_a_path_is_the_value_alone(hftctl: Any, path: str, words: list[str], said: str) -> None:
    assert hftctl("get", "strategy-mm", path, *words)[:2] == (0, said)


@pytest.mark.parametrize(
    ("path", "nearest"),
    [
        ("skew_pm", "skew_ppm"),
        ("failures", "breaker.failures"),
        ("breaker.failure", "breaker.failures"),
        ("markets.7", "markets"),
    ],
)
def test_a_wrong_path_names_the_nearest_ones(hftctl: Any, path: str, nearest: str) -> None:
    for words in (["get", "strategy-mm", path], ["set", "strategy-mm", f"{path}=5", "--reason", "x"]):
        code, _, said = hftctl(*words)
        assert code == 2 and path in said and nearest in said, said


def test_a_service_or_key_that_is_not_there_names_those_that_are(hftctl: Any) -> None:
    for words in (["get", "omsd"], ["history", "omsd"], ["diff", "omsd"], ["watch", "omsd"]):
        code, _, said = hftctl(*words)
        assert code == 2 and "there are auditd, strategy-mm" in said, said
    code, _, said = hftctl("set", "omsd", "a=1", "--reason", "x")
    assert code == 2 and "there are auditd, strategy-mm" in said
    hftctl("set", "/limit", "5", "--reason", "x")
    code, _, said = hftctl("get", "/other")
    assert code == 2 and "there are /limit" in said


def test_get_alone_shows_every_service_and_every_key_with_who_and_why(hftctl: Any) -> None:
    hftctl("set", "strategy-mm", "skew_ppm=50", "--reason", "too eager")
    hftctl("set", "/kill_switch", "false", "--reason", "calm")
    code, said, _ = hftctl("get")
    assert code == 0
    (row,) = [line for line in said.splitlines() if line.startswith("strategy-mm")]
    assert row.split()[1:3] == ["2", "2"] and "too eager" in row
    (row,) = [line for line in said.splitlines() if line.startswith("/kill_switch")]
    assert row.split()[1:3] == ["false", "bool"] and "calm" in row
    found = json.loads(hftctl("get", "-o", "json")[1])
    assert [each["service"] for each in found["services"]] == ["auditd", "strategy-mm"]
    assert [each["key"] for each in found["keys"]] == ["kill_switch"]


# --- changing -----------------------------------------------------------------------------------------------


def test_a_change_is_sent_waited_for_and_found_in_the_history(hftctl: Any) -> None:
    code, said, _ = hftctl("set", "strategy-mm", "skew_ppm=50", "breaker.failures=3", "--reason", "calmer")
    assert code == 0
    assert "skew_ppm: 100 -> 50" in said and "breaker.failures: 5 -> 3" in said
    assert "revision 1 -> 2" in said and "in force on strategy-mm-alpha-1 after" in said
    assert hftctl("set", "strategy-mm", "order_notional=50", "--reason", "x", "--dry-run")[0] == 0
    code, said, _ = hftctl("set", "strategy-mm", "--unset", "skew_ppm", "--reason", "as it was")
    assert code == 0 and "skew_ppm: 50 -> 100" in said
    rows = json.loads(hftctl("history", "strategy-mm", "-o", "json")[1])
    assert [(row["revision"], row["kind"], row["reason"]) for row in rows[1:]] == [
        (2, "set", "calmer"), (3, "set", "as it was"),
    ]  # fmt: skip
    assert {"revision", "at", "actor", "reason"} <= set(rows[0])
    assert [each["path"] for each in rows[1]["changes"]] == ["skew_ppm", "breaker.failures"]


def test_a_change_to_what_is_so_already_sends_nothing(hftctl: Any) -> None:
    code, said, _ = hftctl("set", "strategy-mm", "skew_ppm=100", "--reason", "x")
    assert code == 0 and "nothing to do" in said
    assert json.loads(hftctl("get", "strategy-mm", "-o", "json")[1])["revision"] == 1


def test_a_dry_run_shows_the_change_and_sends_nothing(hftctl: Any, agent: ConfigAgent) -> None:
    code, said, _ = hftctl("set", "strategy-mm", "skew_ppm=50", "--dry-run")
    assert code == 0 and "skew_ppm: 100 -> 50" in said
    assert [body["dry_run"] for _, body in agent.asked] == [True]
    hftctl("set", "/limit", "5", "--dry-run")
    assert len(agent.asked) == 1
    assert json.loads(hftctl("get", "strategy-mm", "-o", "json")[1])["revision"] == 1


@pytest.mark.parametrize(("answer", "code", "sent"), [("y\n", 0, 2), ("n\n", 1, 1), ("", 1, 1)])
def test_at_a_terminal_the_change_is_shown_and_asked_about(
    hftctl: Any, agent: ConfigAgent, monkeypatch: pytest.MonkeyPatch, answer: str, code: int, sent: int
) -> None:
    monkeypatch.setattr(sys, "stdin", Terminal(answer))
    found, said, err = hftctl("set", "strategy-mm", "skew_ppm=50", "--reason", "x")
    assert (found, len(agent.asked)) == (code, sent)
    assert "skew_ppm: 100 -> 50" in said and "send it? [y/N]" in err
    if sent == 2:
        assert agent.asked[1][1]["base"] == 1, "what was shown is what is written"


def test_with_yes_nobody_is_asked_at_a_terminal(
    hftctl: Any, agent: ConfigAgent, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", Terminal("n\n"))
    assert hftctl("set", "strategy-mm", "skew_ppm=50", "--reason", "x", "-y")[0] == 0
    assert hftctl("set", "/kill_switch", "true", "--reason", "x", "-y")[0] == 0


def test_a_bad_value_is_refused_with_the_path_and_what_was_wanted(hftctl: Any) -> None:
    words = ["strategy-mm", "skew_ppm=-1", "breaker.failures=many", "--reason", "x"]
    code, _, said = hftctl("set", *words)
    assert code == 2 and "breaker.failures" in said and "wanted" in said
    assert hftctl("set", "strategy-mm", "skew_ppm=-1", "--reason", "x")[0] == 2
    assert json.loads(hftctl("get", "strategy-mm", "-o", "json")[1])["revision"] == 1


def test_a_setting_that_names_a_service_is_left_to_services_yml(hftctl: Any) -> None:
    code, _, said = hftctl("set", "strategy-mm", "tops=other", "--reason", "x")
    assert code == 1 and "services.yml" in said


def test_a_change_that_restarts_instances_says_so_before_it_is_sent(
    hftctl: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a spec that does not say what can change live, everything restarts."""
    monkeypatch.setattr(sys, "stdin", Terminal("n\n"))
    code, said, _ = hftctl("set", "auditd", "sync=true", "--reason", "x")
    assert code == 1 and "sync: false -> true (restarts its instances)" in said


@pytest.mark.parametrize("output", ["table", "json"])
def test_an_instance_that_does_not_take_it_is_named_with_its_reason(
    hftctl: Any, agent: ConfigAgent, output: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(config_ask, "SETTLED_S", 0.1)
    agent.in_force["auditd-beta-1"] = 1
    agent.refused["auditd-beta-1"] = "sync: this disk cannot"
    code, said, _ = hftctl("set", "auditd", "sync=true", "--reason", "x", "-o", output)
    assert code == 4 and "sync: this disk cannot" in said
    if output == "json":
        found = json.loads(said)
        assert found["in_force"] == {"auditd-alpha-1": 2, "auditd-beta-1": 1}
        assert list(found["not_yet"]) == ["auditd-beta-1"] and found["took_ms"] > 0
    else:
        assert "in force on auditd-alpha-1 after" in said


def test_waiting_ends_with_the_time_that_was_given(hftctl: Any, agent: ConfigAgent) -> None:
    agent.in_force["auditd-alpha-1"] = 1
    code, said, _ = hftctl("set", "auditd", "sync=true", "--reason", "x", "--timeout", "0.3s")
    assert code == 4 and "auditd-alpha-1: not in force: revision 1 is in force" in said
    code, said, _ = hftctl("set", "auditd", "sync=false", "--reason", "x", "--no-wait")
    assert code == 0 and "revision 2 -> 3" in said


def test_an_instance_that_does_not_run_is_not_waited_for(
    hftctl: Any, agent: ConfigAgent, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(config_ask, "SETTLED_S", 0.1)
    agent.state["auditd-beta-1"], agent.in_force["auditd-beta-1"] = "stopped", 1
    code, said, _ = hftctl("set", "auditd", "sync=true", "--reason", "x")
    assert code == 0 and "auditd-beta-1: does not run; it has the new revision when it starts" in said


def test_an_instance_of_a_silent_host_is_not_said_to_have_it(
    hftctl: Any, agent: ConfigAgent, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(config_ask, "SETTLED_S", 0.1)
    agent.state["auditd-beta-1"] = "unknown"
    code, said, _ = hftctl("set", "auditd", "sync=true", "--reason", "x")
    assert code == 4 and "in force on auditd-alpha-1 after" in said
    assert "auditd-beta-1: not in force: no agent reports it" in said


def test_an_answer_that_is_lost_is_an_outcome_that_is_not_known(
    hftctl: Any, agent: ConfigAgent, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(config_ask, "CHANGE_S", 0.3)
    agent.instead["POST /v1/site/config/auditd"] = None
    code, said, _ = hftctl("set", "auditd", "sync=true", "--reason", "x")
    assert code == 4 and "unknown: the agent of alpha did not answer" in said
    monkeypatch.setattr(config_ask, "CHANGE_S", 20.0)
    unknown = {"operation": "config-set-1", "outcome": "unknown", "reason": "the store did not answer"}
    agent.instead["POST /v1/site/config/auditd"] = answers.json(unknown, 503)
    code, said, _ = hftctl("set", "auditd", "sync=true", "--reason", "x")
    assert code == 4 and "the store did not answer (operation config-set-1)" in said
    agent.instead["POST /v1/site/config/auditd"] = answers.failing("no store", 503)
    code, _, said = hftctl("set", "auditd", "sync=true", "--reason", "x")
    assert code == 3 and "nothing was changed: no store" in said


def test_without_a_store_nothing_is_changed_and_the_verb_says_so(hftctl: Any, agent: ConfigAgent) -> None:
    async def cut(agent: ConfigAgent) -> None:
        agent.store.cut()

    agent.do(cut)
    code, _, said = hftctl("set", "auditd", "sync=true", "--reason", "x")
    assert code == 3 and "nothing was changed" in said


def test_a_document_of_a_megabyte_is_refused_with_both_sizes(
    hftctl: Any, agent: ConfigAgent, tmp_path: Path
) -> None:
    file = tmp_path / "big.yml"
    file.write_text(json.dumps({"tape": ["x" * 1000] * 1000}))
    code, _, said = hftctl("apply", "auditd", "-f", str(file), "--reason", "x")
    assert code == 2 and "262,144" in said
    file.write_text(json.dumps({"tape": ["x" * 1000] * 100}))
    code, _, said = hftctl("apply", "auditd", "-f", str(file), "--reason", "x")
    assert code == 2 and "wanted at most 65,536" in said and said.count("\n") == 1
    assert agent.asked == []


def test_a_rollout_is_followed_to_its_end_with_its_exit_code(
    hftctl: Any, agent: ConfigAgent, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The elected controller ends it; here the test does."""

    async def end(agent: ConfigAgent) -> None:
        view = agent.follower.view
        while view is None or not view.configs.get("auditd") or view.configs["auditd"].rollout is None:
            await agent.follower.changed.wait()
            view = agent.follower.view
        rollout = view.configs["auditd"].rollout
        await log.finish(agent.store, KEYS, rollout.operation, "failed", 2, outcome="reverted: it died")

    ending = threading.Thread(target=agent.do, args=[end])
    ending.start()
    words = ["--rollout", "--canary", "auditd-beta-1", "--watch", "30s", "--revert-when", "rejects>5"]
    code, said, _ = hftctl("set", "auditd", "sync=true", "--reason", "x", *words)
    ending.join()
    assert (
        code == 1
        and "reverted: it died" in said
        and "rollout of revision 2: operation config-rollout" in said
    )
    wish = agent.asked[0][1]["rollout"]
    assert wish == {"canary": ["auditd-beta-1"], "watch_s": 30.0, "timeout_s": 60.0, "metric": "rejects > 5"}
    code, _, said = hftctl("set", "auditd", "sync=false", "--reason", "x")
    assert code == 1 and "under way" in said and "config-rollout" in said


def test_a_rollback_takes_back_the_rollout_that_is_under_way(hftctl: Any, agent: ConfigAgent) -> None:
    words = ("set", "auditd", "sync=true", "--reason", "x", "--rollout", "--no-wait")
    assert hftctl(*words)[0] == 0

    async def seen(agent: ConfigAgent) -> None:
        while (view := agent.follower.view) is None or "auditd" not in view.configs:
            await agent.follower.changed.wait()

    agent.do(seen)
    code, said, _ = hftctl("rollback", "auditd", "--reason", "not now")
    assert code == 0 and "sync: true -> false" in said and "revision 2 -> 1 (operation config-rollout" in said

    async def standing(agent: ConfigAgent) -> tuple[str, str]:
        found = await staged.find(agent.store, KEYS, "auditd")
        assert found is not None
        return found[0].stage, found[0].why

    stage, why = agent.do(standing)
    assert stage == "revert" and why.startswith("taken back by ") and why.endswith(": not now")


def test_what_is_no_whole_number_of_a_revision_is_a_wrong_line(hftctl: Any) -> None:
    assert hftctl("diff", "auditd", "one")[0] == 2
    assert hftctl("rollback", "auditd", "--to", "0", "--reason", "x")[0] == 2


# --- revisions ----------------------------------------------------------------------------------------------


def test_any_two_revisions_are_compared_and_any_is_had_back(hftctl: Any) -> None:
    for value in ("50", "60", "70"):
        assert hftctl("set", "strategy-mm", f"skew_ppm={value}", "--reason", f"to {value}")[0] == 0
    assert hftctl("diff", "strategy-mm")[:2] == (1, "strategy-mm: revision 3 -> 4\n  skew_ppm: 60 -> 70\n")
    assert "skew_ppm: 50 -> 70" in hftctl("diff", "strategy-mm", "2")[1]
    assert "skew_ppm: 60 -> 100" in hftctl("diff", "strategy-mm", "3", "1")[1]
    assert hftctl("diff", "strategy-mm", "3", "3")[0] == 0
    code, said, _ = hftctl("rollback", "strategy-mm", "--reason", "back")
    assert code == 0 and "skew_ppm: 70 -> 60" in said and "revision 4 -> 5" in said
    code, said, _ = hftctl("rollback", "strategy-mm", "--to", "1", "--reason", "all the way")
    assert code == 0 and "skew_ppm: 60 -> 100" in said
    last = json.loads(hftctl("history", "strategy-mm", "-o", "json")[1])[-1]
    assert (last["kind"], last["restored"]) == ("rollback", 1)
    assert "all the way (as revision 1)" in hftctl("history", "strategy-mm")[1]
    for words in (
        ["diff", "strategy-mm", "1", "99"],
        ["rollback", "strategy-mm", "--to", "99", "--reason", "x"],
    ):
        code, _, said = hftctl(*words)
        assert code == 2 and "99" in said, said


def test_with_one_revision_there_is_nothing_to_go_back_to(hftctl: Any) -> None:
    code, _, said = hftctl("rollback", "strategy-mm", "--reason", "x")
    assert code == 2 and "no revision before 1" in said
    assert hftctl("diff", "strategy-mm")[0] == 0


def test_a_file_is_applied_whole_and_its_faults_have_their_lines(
    hftctl: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "s.yml"
    file.write_text("# quieter\nskew_ppm: 7\nmarkets: [spot]\n")
    code, said, _ = hftctl("apply", "strategy-mm", "-f", str(file), "--reason", "quieter")
    assert code == 0 and "skew_ppm: 100 -> 7" in said and "markets" in said
    assert hftctl("apply", "strategy-mm", "-f", str(file), "--reason", "again")[0] == 0
    file.write_text("skew_ppm: 7\nbreaker:\n  failures: many\n")
    code, _, said = hftctl("apply", "strategy-mm", "-f", str(file), "--reason", "x")
    assert code == 2 and f"{file}:3: strategy-mm: breaker.failures: found" in said
    file.write_text("skew_ppm: 7\nskew: [1\n")
    code, _, said = hftctl("apply", "strategy-mm", "-f", str(file), "--reason", "x")
    assert code == 2 and f"{file}:3: not YAML" in said
    for content, why in ((b"", "it is empty"), (b"- 1", "wanted a mapping"), (b"\xff\xff", "not UTF-8")):
        file.write_bytes(content)
        code, _, said = hftctl("apply", "strategy-mm", "-f", str(file), "--reason", "x")
        assert code == 2 and why in said and said.count("\n") == 1, said
    code, _, said = hftctl("apply", "strategy-mm", "-f", str(tmp_path / "nosuch"), "--reason", "x")
    assert code == 2 and "cannot be read" in said
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b'{"skew_ppm": 8}')))
    code, said, _ = hftctl("apply", "strategy-mm", "-f", "-", "--reason", "by a script")
    assert code == 0 and "skew_ppm: 7 -> 8" in said


# --- plain keys ---------------------------------------------------------------------------------------------


def test_a_key_is_put_got_and_deleted(hftctl: Any) -> None:
    code, said, _ = hftctl("set", "/max_position", "500", "--reason", "half")
    assert code == 0 and "/max_position: null -> 500 (operation config-key-set" in said
    assert hftctl("get", "/max_position")[:2] == (0, "500\n")
    found = json.loads(hftctl("get", "/max_position", "-o", "json")[1])
    assert (found["value"], found["type"], found["reason"]) == (500, "int", "half")
    assert hftctl("set", "/max_position", "500", "--type", "string", "--reason", "x")[0] == 0
    assert json.loads(hftctl("get", "/max_position", "-o", "json")[1])["value"] == "500"
    code, said, _ = hftctl("set", "/max_position", "--delete", "--reason", "over")
    assert code == 0 and '/max_position: "500" -> null' in said
    assert hftctl("get", "/max_position")[0] == 2
    code, _, said = hftctl("set", "/kill_switch", "maybe", "--reason", "x")
    assert code == 2 and "bool" in said
    assert hftctl("get", "/max_position", "path")[0] == 2


# --- watching -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("output", ["table", "json"])
def test_watch_prints_each_change_as_it_comes_and_ends_with_ctrl_c(
    agent: ConfigAgent, hftctl: Any, output: str
) -> None:
    words = [sys.executable, "-m", "controlplane.cli.main", "config", "watch", "-o", output]
    with subprocess.Popen(words, env=dict(os.environ), stdout=subprocess.PIPE, text=True) as watching:
        try:
            assert watching.stdout is not None
            began = threading.Thread(target=_until_it_looks, args=[agent])
            began.start()
            began.join()
            assert (
                hftctl("set", "strategy-mm", "skew_ppm=50", "breaker.failures=3", "--reason", "calmer")[0]
                == 0
            )
            first, second = watching.stdout.readline(), watching.stdout.readline()
            hftctl("set", "/limit", "5", "--reason", "tight")
            third = watching.stdout.readline()
            if output == "json":
                rows = [json.loads(line) for line in (first, second, third)]
                assert [row.get("path") for row in rows] == ["skew_ppm", "breaker.failures", None]
                assert (rows[0]["old"], rows[0]["new"], rows[0]["revision"]) == (100, 50, 2)
                assert (rows[2]["key"], rows[2]["old"], rows[2]["new"]) == ("limit", None, 5)
            else:
                assert "strategy-mm revision 2 skew_ppm: 100 -> 50 (by " in first and "calmer)" in first
                assert "breaker.failures: 5 -> 3" in second
                assert "/limit null -> 5 (by " in third and "tight)" in third
        finally:
            watching.send_signal(signal.SIGINT)
            assert watching.wait(20) == 130


def _until_it_looks(agent: ConfigAgent) -> None:
    """Twice: what was there before is known to it."""
    for _ in range(3):
        agent.looked.clear()
        assert agent.looked.wait(20)
