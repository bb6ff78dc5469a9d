"""Write the table of other servers' suites in docs/api.md, from the cases of tests/server/peers/.

.venv/bin/python scripts/peers.py            # writes it
.venv/bin/python scripts/peers.py --check    # fails when it is not what would be written

tests/server/test_peers.py asks every case, so a table that passes the check is green where the suite is.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "api.md"
BEGIN, END = "<!-- peers: scripts/peers.py -->\n", "<!-- end of peers -->\n"

sys.path.insert(0, str(ROOT))

from tests.server.peers import PeerCase, by_file, counts  # noqa: E402


def table() -> Iterator[str]:
    yield "| suite | their tests | alike | otherwise | what, and why |"
    yield "|---|---:|---:|---:|---|"
    for peer, files in groupby(by_file(), key=lambda one: one[0]):
        every: list[PeerCase] = []
        for _, file, cases in files:
            every += cases
            yield row(f"{peer} `{file}`", cases, reasons(cases))
        yield row(f"**{peer}, all**", every, "")


def row(name: str, cases: list[PeerCase], why: str) -> str:
    found = counts(cases)
    return f"| {name} | {len(cases)} | {found['same']} | {found['differs'] or ''} | {why} |"


def reasons(cases: list[PeerCase]) -> str:
    return "; ".join(dict.fromkeys(case.differs for case in cases if case.differs))


def main() -> int:
    text = PAGE.read_text(encoding="utf-8")
    head, begin, rest = text.partition(BEGIN)
    _, end, tail = rest.partition(END)
    if not (begin and end):
        sys.stderr.write("docs/api.md has no place for the table\n")
        return 1
    made = head + BEGIN + "\n".join(table()) + "\n" + END + tail
    if sys.argv[1:] == ["--check"]:
        sys.stderr.write("" if made == text else "docs/api.md is not up to date: run scripts/peers.py\n")
        return 0 if made == text else 1
    PAGE.write_text(made, encoding="utf-8")
    sys.stdout.write(f"docs/api.md: {sum(len(cases) for *_, cases in by_file())} tests of two suites\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
