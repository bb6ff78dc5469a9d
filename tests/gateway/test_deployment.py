"""The file of a deployment: what it says, what it may not say, and what its nodes are started with."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from stepwell import cli
from stepwell.errors import BadInput
from stepwell.gateway.deployment import load_deployment, node_environment, plans
from stepwell.settings.file import load

GOOD = """
dir = "data"
[front]
port = 0
[[engines]]
name = "small"
kind = "null"
replicas = 2
first_port = 7000
[engines.settings]
kv.host_kv = "64MiB"
policy.always_load = true
[[engines]]
name = "rack"
urls = ["http://127.0.0.1:1/"]
"""


def file(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "fleet.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_nodes_in_the_order_of_the_file(tmp_path: Path) -> None:
    found = load_deployment(file(tmp_path, GOOD))
    assert [(plan.name, plan.url, plan.port) for plan in plans(found)] == [
        ("small-1", None, 7000),
        ("small-2", None, 7001),
        ("rack", "http://127.0.0.1:1", 0),
    ]
    assert found.dir == tmp_path / "data"


def test_a_nodes_environment_is_settings_that_load(tmp_path: Path) -> None:
    found = load_deployment(file(tmp_path, GOOD))
    one, two = (
        node_environment(found, plan, {"STEPWELL_KV_HOST_KV": "1GiB", "PATH": "p"})
        for plan in plans(found)[:2]
    )
    assert one["PATH"] == "p"
    first, second = load(env=one), load(env=two)
    assert (first.kv.host_kv, first.policy.always_load, first.engine.kind) == (64 * 2**20, True, "null")
    assert first.ledger.path == second.ledger.path == str(tmp_path / "data" / "ledger.db")
    for node, name in ((first, "small-1"), (second, "small-2")):
        assert node.ledger.node == name
        assert {node.kv.disk_dir.parent, node.library.dir.parent, node.batches.dir.parent} == {
            tmp_path / "data" / name
        }


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("engines = []", "there is none"),
        ("x = 1\n[[engines]]\nname='a'", "x: is no key of a deployment"),
        ("[[engines]]\nname='a'\nmodle='x'", r"engines\[1\].modle: is no key of a deployment"),
        ("[[engines]]\nname='a'\n[[engines]]\nname='a'", "'a' is there twice"),
        ("[[engines]]\nname='A b'", r"engines\[1\].name"),
        ("[[engines]]\nname='a'\nreplicas=0", "replicas"),
        ("[[engines]]\nname='a'\nurls=['10.0.0.1:80']", "is no node's address"),
        ("[[engines]]\nname='a'\nurls=['http://10.0.0.1:80']", "cannot be shared between machines"),
        ("[front]\nrouter='best'\n[[engines]]\nname='a'", "'best' is no rule"),
        ("[[engines]]\nname='a'\n[engines.settings]\nkv.host_kv=[1]", "no number, text or boolean"),
        ("[[engines]", "not valid TOML"),
    ],
)
def test_what_is_wrong_is_one_sentence_with_the_file_in_it(tmp_path: Path, text: str, sentence: str) -> None:
    path = file(tmp_path, text)
    with pytest.raises(BadInput, match=sentence) as error:
        load_deployment(path)
    assert str(path) in str(error.value) and "\n" not in str(error.value).strip()


def test_another_machine_with_postgresql_is_fine(tmp_path: Path) -> None:
    text = "[ledger]\npath='postgresql://b@db/x'\n[[engines]]\nname='a'\nurls=['http://10.0.0.1:80']"
    assert len(plans(load_deployment(file(tmp_path, text)))) == 1


def test_a_missing_file_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["deploy", str(tmp_path / "none.toml")]) == 2
    assert "cannot be read" in capsys.readouterr().err


def test_check_says_all_that_is_wrong_and_starts_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.run(["deploy", str(file(tmp_path, GOOD)), "--check", "--json"]) == 2
    said = json.loads(capsys.readouterr().out)
    assert {one["name"]: one["ok"] for one in said["checks"]} == {
        "keys": True, "front": True, "ledger": True, "small-1": True, "small-2": True, "rack": False,
    }  # fmt: skip
    assert not (tmp_path / "data").exists()


def test_nodes_with_keys_need_an_operators(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "stepwell.toml").write_text('[[keys]]\nkey="sk-1"\ntenant="acme"\n', encoding="utf-8")
    head = 'config = "stepwell.toml"\n[front]\nport = 0\n'
    engine = '[[engines]]\nname = "a"\nkind = "null"\n'
    for line, sentence in (
        ("", "STEPWELL_FLEET_KEY"),
        ('operator_key="sk-1"\n', "is no operator's"),
        ('operator_key="no"\n', "Incorrect"),
    ):
        assert cli.run(["deploy", str(file(tmp_path, head + line + engine))]) == 2
        assert sentence in capsys.readouterr().err


def test_an_engine_whose_settings_are_wrong_is_found_by_check(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = "[front]\nport=0\n[[engines]]\nname='a'\nkind='null'\n[engines.settings]\nkv.host_kvv='1GiB'"
    assert cli.run(["deploy", str(file(tmp_path, text)), "--check"]) == 2
    assert "STEPWELL_KV_HOST_KVV is not a setting" in capsys.readouterr().out
