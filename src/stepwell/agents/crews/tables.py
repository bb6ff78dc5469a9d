"""A crew or profile as the table that its file holds, TOML or YAML; what it says is read elsewhere."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

from stepwell.agents.crews.values import exact
from stepwell.errors import BadInput

YAML_SUFFIXES = (".yaml", ".yml")
SUFFIXES = (".toml", *YAML_SUFFIXES)
MAX_FILE_BYTES = 1 << 20


def names_file(name: str) -> bool:
    """Whether a name on the command line is that of a file and not of something that ships."""
    return Path(name).suffix.lower() in SUFFIXES or Path(name).exists()


def read_table(path: Path, what: str) -> dict[str, Any]:
    """What the file of a crew or profile holds: YAML by its suffix, else TOML. Raises ``BadInput``."""
    try:
        with path.open("rb") as file:
            data = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise BadInput(f"{what} {path} cannot be read: {error.strerror}") from error
    if len(data) > MAX_FILE_BYTES:
        raise BadInput(f"{what} {path} is larger than {MAX_FILE_BYTES} bytes: a {what} is a short file")
    text = data.decode("utf-8", errors="replace").removeprefix("\ufeff")
    if path.suffix.lower() not in YAML_SUFFIXES:
        return toml_table(text, str(path))
    from stepwell.agents.crews.yaml_table import yaml_table  # with the library, for those who write YAML

    return yaml_table(text, str(path))


def toml_table(text: str, where: str) -> dict[str, Any]:
    """The table in a TOML document; numbers with a point are exact. Raises ``BadInput``."""
    try:
        return tomllib.loads(text, parse_float=exact)
    except BadInput as error:
        raise BadInput(f"{where}: {error}") from error
    except (ValueError, RecursionError) as error:  # a number of thousands of digits is a plain ValueError
        raise BadInput(f"{where} is not TOML: {error}") from error
