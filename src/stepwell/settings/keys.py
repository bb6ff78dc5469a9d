"""The API keys that settings name, checked against the rest of the settings."""

from __future__ import annotations

from pathlib import Path

from stepwell.errors import BadInput
from stepwell.server.callers.keys import KeyRing, missing_adapter
from stepwell.settings.file import Settings


def key_ring(settings: Settings) -> KeyRing:
    """The API keys of the settings or of their file. Raises ``BadInput``, which never quotes a key."""
    names = [contract.name for contract in settings.contracts()]
    keys = KeyRing.load(settings.keys_file, names) if settings.keys_file else KeyRing(settings.keys, names)
    if missing := missing_adapter(keys.all(), adapter_names(settings)):
        raise BadInput(f"{missing}; [engine.adapters] has them, and the adapters of [[models]]")
    return keys


def adapter_names(settings: Settings) -> set[str]:
    """What keys may call the adapters of all models: by their names alone, and as ``MODEL:ADAPTER``."""
    first = settings.engine
    called = {first.name, first.model, first.model and Path(first.model).stem} - {""}
    models = [(called, first.adapters), *(({entry.name}, entry.adapters) for entry in settings.models)]
    names = {adapter for _, adapters in models for adapter in adapters}
    return names | {f"{model}:{one}" for called, adapters in models for model in called for one in adapters}


def keys_line(keys: KeyRing) -> str:
    """What a server says of its keys when it starts."""
    return "API keys required" if keys.required else "no API keys: this machine only, one tenant"
