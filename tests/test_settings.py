from __future__ import annotations

import re
from pathlib import Path

import pytest

from stepwell.errors import BadInput
from stepwell.settings.file import Settings, env_name, known_keys, load

GIB = 2**30


def from_text(
    tmp_path: Path, text: str, flags: dict[str, object] | None = None, env: dict[str, str] | None = None
) -> Settings:
    config = tmp_path / "stepwell.toml"
    config.write_text(text, encoding="utf-8")
    return load(config, flags, env or {})


def test_without_anything_the_defaults_hold_on_a_laptop(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    settings = load(env={})
    assert (settings.engine.model, settings.engine.device_kv_tokens) == ("smollm2", 8192)
    assert (settings.kv.host_kv, settings.kv.disk_kv) == (GIB, 4 * GIB)
    assert settings.kv.disk_dir == tmp_path / "stepwell" / "kv"
    assert settings.keys == ()


def test_flags_win_over_environment_over_file(tmp_path: Path) -> None:
    text = '[kv]\nhost_kv = "1GiB"\ndisk_kv = "1GiB"\ndisk_read_deadline_ms = 1\n'
    env = {"STEPWELL_KV_HOST_KV": "2GiB", "STEPWELL_KV_DISK_KV": "2GiB", "PATH": "/bin"}
    settings = from_text(tmp_path, text, {"kv.host_kv": "3GiB", "kv.disk_kv": None}, env)
    assert settings.kv.host_kv == 3 * GIB
    assert settings.kv.disk_kv == 2 * GIB
    assert settings.kv.disk_read_deadline_ms == 1


def test_the_environment_names_the_file(tmp_path: Path) -> None:
    config = tmp_path / "a.toml"
    config.write_text("[engine]\nthreads = 3\n", encoding="utf-8")
    assert load(env={"STEPWELL_CONFIG": str(config)}).engine.threads == 3


def test_environment_text_is_read_as_the_key_wants_it() -> None:
    env = {
        "STEPWELL_ENGINE_MODEL": "17",
        "STEPWELL_ENGINE_THREADS": "4",
        "STEPWELL_ENGINE_EXACT_LONE_DECODE": "true",
        "STEPWELL_KV_DISK_DIR": "/srv/kv",
        "STEPWELL_KV_HOST_KV": "0",
    }
    settings = load(env=env)
    assert (settings.engine.model, settings.engine.threads, settings.engine.exact_lone_decode) == (
        "17",
        4,
        True,
    )
    assert (settings.kv.disk_dir, settings.kv.host_kv) == (Path("/srv/kv"), 0)


def test_every_key_has_an_environment_name_of_its_own() -> None:
    names = [env_name(path) for path in known_keys()]
    assert len(set(names)) == len(names)


def test_keys_map_to_tenants(tmp_path: Path) -> None:
    text = (
        '[[keys]]\nkey = "a"\ntenant = "acme"\n[[keys]]\nkey = "b"\ntenant = "b"\nservice_tiers = ["flex"]\n'
    )
    first, second = from_text(tmp_path, text).keys
    assert (first.key, first.tenant, first.service_tiers) == ("a", "acme", ("default",))
    assert second.service_tiers == ("flex",)


def test_keys_are_in_one_place_only(tmp_path: Path) -> None:
    text = 'keys_file = "keys.toml"\n[[keys]]\nkey = "a"\ntenant = "acme"\n'
    with pytest.raises(BadInput, match="keep one of them"):
        from_text(tmp_path, text)
    assert from_text(tmp_path, 'keys_file = "keys.toml"').keys_file == Path("keys.toml")


def test_a_wrong_key_is_never_quoted(tmp_path: Path) -> None:
    with pytest.raises(BadInput) as caught:
        from_text(tmp_path, '[[keys]]\nkey = 123456\ntenant = "acme"')
    assert "keys[1].key" in str(caught.value)
    assert "123456" not in str(caught.value)


def test_the_servers_own_table_is_read(tmp_path: Path) -> None:
    server = from_text(tmp_path, '[server]\nport = 0\nmodel_aliases = ["gpt-4o"]\n').server
    assert (server.host, server.port, server.model_aliases) == ("127.0.0.1", 0, ("gpt-4o",))


WRONG = {
    "[kv]\nhots_kv = 1": "unknown key 'kv.hots_kv', did you mean 'kv.host_kv'?",
    "[engin]\nthreads = 1": "unknown key 'engin', did you mean 'engine'?",
    'model = "smollm2"': "unknown key 'model': it belongs under [engine]",
    "[kv]\ndevice_kv_tokens = 9": "unknown key 'kv.device_kv_tokens': it belongs under [engine]",
    "kv = 3": "kv is a table: write [kv]",
    '[kv]\nhost_kv = "2 parsecs"': "kv.host_kv: '2 parsecs' is not a size",
    "[kv]\nhost_kv = true": "kv.host_kv: True is not a size",
    "[kv]\nhost_kv = 1.5": "kv.host_kv: 1.5 is not a size",
    "[kv]\nhost_kv = -1": "kv.host_kv: -1 is not a size",
    "[engine]\nthreads = true": "engine.threads: true is wrong, it should be a valid integer",
    '[engine]\nthreads = "4"': 'engine.threads: "4" is wrong, it should be a valid integer',
    "[engine]\nthreads = 0": "engine.threads: 0 is wrong, it should be greater than or equal to 1",
    "[engine]\ndevice_kv_tokens = 1": "engine.device_kv_tokens: 1 is wrong",
    '[engine]\nkv_type_k = "q3"': "engine.kv_type_k: \"q3\" is wrong, it should be 'f16'",
    "keys = 3": "keys: should be a valid array",
    '[[keys]]\nkey = "a"': "keys[1].tenant is missing",
    '[[keys]]\nkey = "a"\ntenannt = "b"': "keys[1].tenannt is an unknown key, did you mean 'tenant'?",
    '[[keys]]\nkey = ""\ntenant = "b"': "keys[1].key",
    "[server]\nport = 99.5": "server.port: 99.5 is wrong",
    "[[[": "is not valid TOML",
}


@pytest.mark.parametrize("text", WRONG)
def test_what_is_wrong_is_one_sentence_that_names_the_key(tmp_path: Path, text: str) -> None:
    with pytest.raises(BadInput) as caught:
        from_text(tmp_path, text)
    sentence = str(caught.value)
    assert WRONG[text] in sentence
    assert "\n" not in sentence
    assert "stepwell.toml" in sentence


def test_the_source_of_a_wrong_value_is_named(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="variable STEPWELL_ENGINE_THREADS: engine"):
        load(env={"STEPWELL_ENGINE_THREADS": "many"})
    with pytest.raises(
        BadInput, match="STEPWELL_ENGINE_THRAEDS is not a setting, did you mean 'STEPWELL_ENGINE_THR"
    ):
        load(env={"STEPWELL_ENGINE_THRAEDS": "2"})
    with pytest.raises(BadInput, match=r"^--disk-kv: kv\.disk_kv: '2G' is not a size"):
        from_text(tmp_path, '[kv]\ndisk_kv = "1GiB"\n', {"kv.disk_kv": "2G"})


def test_a_settings_file_that_cannot_be_read_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="cannot be read: No such file"):
        load(tmp_path / "absent.toml", env={})
    with pytest.raises(BadInput, match="cannot be read: Is a directory"):
        load(tmp_path, env={})
    latin = tmp_path / "latin.toml"
    latin.write_bytes(b"# \xe9\n")
    with pytest.raises(BadInput, match="not UTF-8"):
        load(latin, env={})


def test_further_models_are_as_the_first_but_for_what_they_say(tmp_path: Path) -> None:
    first = '[engine]\nmodel = "smollm2"\nthreads = 1\n'
    text = first + '[[models]]\nname = "b"\nmodel = "b.gguf"\nmax_sequences = 4\n'
    settings = from_text(tmp_path, text)
    (entry,) = settings.models
    engine = entry.engine(settings.engine)
    assert (engine.name, engine.model, engine.threads, engine.max_sequences) == ("b", "b.gguf", 1, 4)


def test_without_a_first_model_the_first_of_the_list_is_it(tmp_path: Path) -> None:
    text = '[[models]]\nname = "a"\nmodel = "a.gguf"\n[[models]]\nname = "b"\nmodel = "b.gguf"\n'
    settings = from_text(tmp_path, text)
    assert (settings.engine.name, settings.engine.model) == ("a", "a.gguf")
    assert [entry.name for entry in settings.models] == ["b"]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('[[models]]\nname = "a"\n', "models: 'a' needs a model"),
        ('[[models]]\nname = "a"\nmodel = "x"\n[[models]]\nname = "a"\nmodel = "y"\n', "is there twice"),
        ('[engine]\nkind = "vllm"\n[[models]]\nname = "a"\nmodel = "x"\n', "there is one model"),
        ('[[models]]\nname = "a"\nmodle = "x"\n', "did you mean 'model'"),
    ],
)
def test_what_is_wrong_with_a_model_is_one_sentence(tmp_path: Path, text: str, says: str) -> None:
    with pytest.raises(BadInput, match=re.escape(says)):
        from_text(tmp_path, text)
