"""Simulated runs that are kept while a long comparison goes on, so that one that was stopped can be resumed.

A run depends on its setting and on the code that decides and simulates, and on nothing else. So it is kept
under a hash of both, and what another version of the code has left is passed over.
"""

from __future__ import annotations

import hashlib
from dataclasses import astuple, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

import stepwell.policy
import stepwell.simulate
from stepwell.simulate.report import RunReport

if TYPE_CHECKING:
    from stepwell.bench.policy.policies import ComparedSetting


class KeptRuns:
    """``directory`` None: nothing is kept."""

    def __init__(self, directory: Path | None) -> None:
        self._directory = directory
        if directory is not None:
            directory.mkdir(parents=True, exist_ok=True)

    def get(self, setting: ComparedSetting) -> RunReport | None:
        """The run of that setting by this code; None: it is not there, or it is damaged."""
        file = self._file(setting)
        try:
            return None if file is None else msgspec.json.decode(file.read_bytes(), type=RunReport)
        except (OSError, msgspec.DecodeError, msgspec.ValidationError):
            return None

    def put(self, setting: ComparedSetting, run: RunReport) -> None:
        """Whole or not at all: a name that is there has all of its run."""
        file = self._file(setting)
        if file is not None:
            begun = file.with_suffix(".begun")
            begun.write_bytes(msgspec.json.encode(run))
            begun.replace(file)

    def _file(self, setting: ComparedSetting) -> Path | None:
        if self._directory is None:
            return None
        asked = repr(astuple(replace(setting, traces=Path(setting.traces.name))))
        return self._directory / f"{hashlib.sha256((asked + code_digest()).encode()).hexdigest()[:24]}.json"


@cache
def code_digest() -> str:
    """Of the sources that decide and simulate."""
    seen = hashlib.sha256()
    for package in (stepwell.policy, stepwell.simulate):
        root = Path(next(iter(package.__path__)))
        for file in sorted(root.rglob("*.py")):
            seen.update(file.relative_to(root).as_posix().encode() + b"\0" + file.read_bytes())
    return seen.hexdigest()
