"""Write constraints-hashes.txt: the SHA-256 of every file that each package of constraints.txt has.

.venv/bin/python scripts/hashes.py            # asks the package index (with uv), keeps what it says
.venv/bin/python scripts/hashes.py --check    # asks no index: does every pin have hashes, and nothing else?

Run it after constraints.txt has changed. A hash that was kept stays: where the index says another for a file
of the same version, nothing is written and the package is named. See docs/adr/0025-hashes.md.
"""

from __future__ import annotations

import argparse
import importlib.util
import platform
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PINS, HASHES = ROOT / "constraints.txt", ROOT / "constraints-hashes.txt"
HEAD = """# What the files of constraints.txt hash to, on every platform. Written by scripts/hashes.py.
# pip refuses whatever is not in here: see docs/adr/0025-hashes.md.
"""
ENTRY = re.compile(r"^([A-Za-z0-9._-]+==[^\s\\;]+)((?:\s*\\?\s*--hash=sha256:[0-9a-f]{64})+)", re.M)
HASH = re.compile(r"--hash=(sha256:[0-9a-f]{64})")

Kept = dict[str, frozenset[str]]
"""Per pin, such as ``six==1.17.0``: the hashes of its files."""


def pins() -> list[str]:
    """The pins, in their order."""
    lines = PINS.read_text("utf-8").splitlines()
    return [line.strip() for line in lines if "==" in line and not line.startswith("#")]


def key(pin: str) -> str:
    """A pin as both files can be compared: names in lower case, one kind of dash."""
    name, _, version = pin.partition("==")
    return f"{re.sub(r'[-_.]+', '-', name).lower()}=={version}"


def read(text: str) -> Kept:
    return {key(found[1]): frozenset(HASH.findall(found[2])) for found in ENTRY.finditer(text)}


def written(found: Mapping[str, frozenset[str]]) -> str:
    """One package after the other as they are pinned, one hash a line: what changes is what a diff shows."""
    entries = []
    for pin in pins():
        lines = [pin, *(f"    --hash={one}" for one in sorted(found[key(pin)]))]
        entries.append(" \\\n".join(lines))
    return HEAD + "\n".join(entries) + "\n"


def wrong(kept: Mapping[str, frozenset[str]]) -> list[str]:
    """One sentence for each pin without hashes, and for each that is pinned no more."""
    wanted = {key(pin) for pin in pins()}
    return [
        *(f"{pin} has no hashes" for pin in sorted(wanted - kept.keys())),
        *(f"{pin} is not in {PINS.name}" for pin in sorted(kept.keys() - wanted)),
    ]


def changed(kept: Mapping[str, frozenset[str]], found: Mapping[str, frozenset[str]]) -> list[str]:
    """Pins of which a file is gone or has become another one: files are only ever added."""
    return sorted(pin for pin in kept.keys() & found.keys() if not kept[pin] <= found[pin])


def ask() -> Kept:
    """What the index says now. Ends the program with one sentence where that cannot be had."""
    if importlib.util.find_spec("uv") is None:
        raise SystemExit("hashes: uv asks the index, and is not installed: make test installs it")
    command = [sys.executable, "-m", "uv", "pip", "compile", "--quiet", "--no-deps", "--generate-hashes"]
    more = ["--universal", "--python-version", platform.python_version(), "--no-header", "--no-annotate"]
    done = subprocess.run([*command, *more, str(PINS)], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise SystemExit(f"hashes: uv failed: {done.stderr.strip().splitlines()[-1:]}")
    return read(done.stdout)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing, ask no index")
    check = parser.parse_args().check
    kept = read(HASHES.read_text("utf-8")) if HASHES.exists() else {}
    if not check:
        found = ask()
        if other := changed(kept, found):
            sys.stderr.write(
                f"hashes: files of {', '.join(other)} are not what they were; nothing is written\n"
            )
            return 1
        if not wrong(found):
            HASHES.write_text(written(found), "utf-8")
            sys.stdout.write(f"hashes: {len(found)} packages, {sum(map(len, found.values())):,} files\n")
            return 0
        kept = found
    problems = wrong(kept)
    for sentence in problems:
        sys.stderr.write(f"hashes: {sentence}\n")
    if problems:
        sys.stderr.write("hashes: run .venv/bin/python scripts/hashes.py and commit what it writes\n")
    return 1 if problems else 0


if __name__ == "__main__":
    raise SystemExit(main())
