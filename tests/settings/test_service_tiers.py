"""Contracts in the settings file: what they mean, and one sentence for what cannot be kept."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import pytest

from stepwell.commands.serve.flags import KEYS, ServeFlags
from stepwell.commands.serve.serve import serve
from stepwell.engines.null import NullConfig, NullEngine
from stepwell.errors import BadInput
from stepwell.launch.assemble import build, policy_config
from stepwell.policy.contracts import DEFAULT_CONTRACTS, Contract, Shares
from stepwell.server.callers.keys import KeyRing
from stepwell.settings.file import Settings, known_keys, load
from stepwell.settings.keys import key_ring
from stepwell.tiers.local import LocalTiers

GOLD = """
[service_tiers.gold]
weight = 9
guaranteed = { step_tokens = 0.6, device = 0.4, host = 0.3, disk = 0.25 }
borrowable = 0.5
cap = { device = 0.9 }
ttft_target_ms = 1500
tpot_target_ms = 62.5
max_wait_s = 0.5

[service_tiers.free]
"""


def from_text(tmp_path: Path, text: str) -> Settings:
    config = tmp_path / "stepwell.toml"
    config.write_text(text, encoding="utf-8")
    return load(config, {}, {})


def test_a_table_becomes_a_contract(tmp_path: Path) -> None:
    gold, free = from_text(tmp_path, GOLD).contracts()
    assert gold == Contract(
        "gold",
        weight=9,
        guaranteed=Shares(600, 400, 300, 250),
        borrowable=500,
        cap=Shares(1000, 900, 1000, 1000),
        ttft_target_us=1_500_000,
        tpot_target_us=62_500,
        max_wait_us=500_000,
    )
    assert free == Contract("free")


def test_without_tables_there_are_openais_three() -> None:
    assert load(env={}).contracts() == DEFAULT_CONTRACTS


def test_contracts_and_the_write_budget_reach_the_policy(tmp_path: Path) -> None:
    settings = from_text(tmp_path, GOLD + '[policy]\ndisk_write_per_day = "20GiB"\n')
    config = policy_config(settings, NullEngine(NullConfig()).info, LocalTiers(1 << 20, None))
    assert config.contracts == settings.contracts()
    assert config.disk_write_bytes_per_day == 20 * 2**30
    unlimited = policy_config(load(env={}), NullEngine(NullConfig()).info, LocalTiers(1 << 20, None))
    assert unlimited.disk_write_bytes_per_day is None


WRONG = {
    "[service_tiers.a]\nguaranteed.device = 0.7\n[service_tiers.b]\nguaranteed.device = 0.6": (
        "guarantees of device add up to 1.3 of the machine (a 0.7 + b 0.6): lower them"
    ),
    "[service_tiers.a]\nguaranteed.devcie = 0.7": (
        "service_tiers.a.guaranteed.devcie is an unknown key, did you mean 'device'?"
    ),
    "[service_tiers.a]\nwieght = 3": "service_tiers.a.wieght is an unknown key, did you mean 'weight'?",
    "[service_tiers.a]\ncap.host = 1.5": (
        "service_tiers.a.cap.host: 1.5 is wrong, it should be less than or equal to 1"
    ),
    "[service_tiers.a]\nguaranteed.disk = -0.1": "service_tiers.a.guaranteed.disk: -0.1 is wrong",
    "[service_tiers.a]\nguaranteed.disk = nan": "service_tiers.a.guaranteed.disk: NaN is wrong",
    "[service_tiers.a]\nguaranteed.disk = 0.2\ncap.disk = 0.1": (
        "service tier 'a': disk needs 0 <= guaranteed <= cap <= 1, not 0.2 and 0.1"
    ),
    "[service_tiers.a]\nguaranteed = 0.5": "service_tiers.a.guaranteed: 0.5 is wrong, it should be a table",
    "[service_tiers.a]\nweight = 0": "service_tiers.a.weight: 0 is wrong",
    "[service_tiers.a]\nweight = true": "service_tiers.a.weight: true is wrong",
    "[service_tiers.a]\nmax_wait_s = 0": "service_tiers.a.max_wait_s: 0 is wrong",
    "[service_tiers.a]\nttft_target_ms = inf": "service_tiers.a.ttft_target_ms",
    "[service_tiers.auto]": "cannot be called 'auto': it means the default of the key",
    "[service_tiers.fast]": "cannot be called 'fast': it is another word for 'priority'",
    '[service_tiers."a b"]': "'a b' is no name for a service tier",
    "service_tiers = 3": "service_tiers: 3 is wrong, it should be a table",
    "[service_tier.a]": "unknown key 'service_tier', did you mean 'service_tiers'?",
    '[policy]\ndisk_write_per_day = "20 G"': "policy.disk_write_per_day: '20 G' is not a size",
    GOLD + '[[keys]]\nkey = "k"\ntenant = "acme"\nservice_tiers = ["gold", "silver"]': (
        "keys[1] (acme) names the service tier 'silver', which does not exist: there is gold, free"
    ),
    '[[keys]]\nkey = "k"\ntenant = "acme"\ndefault_service_tier = "gold"': "service tier 'gold', which does",
}


@pytest.mark.parametrize("text", WRONG)
def test_what_cannot_be_kept_is_one_sentence(tmp_path: Path, text: str) -> None:
    with pytest.raises(BadInput) as caught:
        from_text(tmp_path, text)
    sentence = str(caught.value)
    assert WRONG[text] in sentence
    assert sentence.startswith(str(tmp_path / "stepwell.toml"))
    assert "\n" not in sentence


def test_the_keys_file_names_service_tiers_that_exist(tmp_path: Path) -> None:
    keys = tmp_path / "keys.toml"
    keys.write_text('[[keys]]\nkey = "k"\ntenant = "acme"\nservice_tiers = ["gold"]\n')
    settings = from_text(
        tmp_path, GOLD.replace("[service_tiers.gold]", f'keys_file = "{keys}"\n[service_tiers.gold]')
    )
    assert key_ring(settings).find("Bearer k").service_tier(None) == "gold"
    with pytest.raises(BadInput, match=r"keys\.toml: keys\[1\] \(acme\) names the service tier 'gold'"):
        KeyRing.load(keys)


def test_without_keys_the_local_tenant_may_use_every_service_tier(tmp_path: Path) -> None:
    local = key_ring(from_text(tmp_path, GOLD)).find(None)
    assert (local.service_tier(None), local.service_tier("free")) == ("gold", "free")
    assert key_ring(from_text(tmp_path, GOLD)).service_tiers == ["free", "gold"]
    assert key_ring(load(env={})).find(None).service_tier("auto") == "default"


def test_a_server_cannot_see_the_future() -> None:
    settings = load(flags={"policy.name": "oracle", "engine.kind": "null"}, env={})
    with pytest.raises(BadInput, match="'oracle' sees the future of a recorded run, which a server does not"):
        build(settings)
    with pytest.raises(BadInput, match=r"unknown policy 'lur': there is .*lru"):
        build(load(flags={"policy.name": "lur", "engine.kind": "null"}, env={}))


def test_the_example_in_the_help_is_valid(tmp_path: Path) -> None:
    example = (serve.__doc__ or "").partition("go into the file:")[2]
    settings = from_text(tmp_path, inspect.cleandoc(example))
    assert [contract.name for contract in settings.contracts()] == ["priority", "flex"]
    assert key_ring(settings).find("Bearer sk-change-me").service_tier(None) == "priority"


def test_every_flag_is_a_setting() -> None:
    paths = {".".join(path) for path in known_keys()}
    assert {key for keys in KEYS.values() for key in keys} <= paths
    assert set(ServeFlags(port=1).settings()) <= paths


def test_the_examples_in_the_docs_are_valid(tmp_path: Path) -> None:
    text = (Path(__file__).parents[2] / "docs" / "api.md").read_text(encoding="utf-8")
    examples = re.findall(r"```toml\n(.*?)```", text, re.DOTALL)
    batches, keys, tiers = (from_text(tmp_path, example) for example in examples)
    assert batches.batches.quota == 2**30
    assert keys.keys[0].tenant == "acme"
    assert tiers.contracts()[0].guaranteed == Shares(600, 400, 300, 200)
    assert tiers.policy.disk_write_per_day == 20 * 2**30
