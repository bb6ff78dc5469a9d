"""``stepwell bench affinity``: Ray's router sees prompts as far as they are equal; the verdicts compare."""

from __future__ import annotations

import importlib.util

import pytest

from stepwell import cli
from stepwell.bench.fleet.affinity import COLUMNS, AffinityRow, verdicts
from stepwell.bench.fleet.ray_prefix import text_of
from stepwell.console.output import sheet


def test_texts_share_what_prompts_share() -> None:
    """Also where units are numbered instead of hashed: the first bytes of such names are all zero."""
    units = [n.to_bytes(16, "big") for n in range(1, 7)]
    one, other = text_of(units), text_of([*units[:4], b"another", units[5]])
    per_unit = len(one) // 6
    assert one[: 4 * per_unit] == other[: 4 * per_unit]
    assert one[4 * per_unit] != other[4 * per_unit]
    assert len({one[n * per_unit : (n + 1) * per_unit] for n in range(6)}) == 6


def row(rule: str, tax: float, p99: float) -> AffinityRow:
    return AffinityRow(rule, 10, 1000, 0.5, tax, 1.0, 2.0, 0.5, p99, 3.0, 0.25, 0.1)


def test_verdicts_compare_with_rays_rule() -> None:
    rows = [row("kv-affine", 0.02, 2.0), row("ray-prefix", 0.01, 4.0)]
    assert [(verdict.measured, verdict.reached) for verdict in verdicts(rows)] == [
        (2.0, False),
        (0.5, True),
    ]


def test_the_table_shows_every_figure() -> None:
    made = sheet("x", COLUMNS, [row("kv-affine", 0.02, 2.0)])
    cells = [next(iter(column.cells)) for column in made.columns]
    assert cells == ["kv-affine", "50.0%", "2.0%", "1 ms", "2 ms", "0.50 s", "2.00 s", "25%", "0.1 s"]


@pytest.mark.skipif(importlib.util.find_spec("ray") is not None, reason="Ray is here")
def test_without_ray_it_says_where_ray_is(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["bench", "affinity", "--quick"]) != 0
    said = capsys.readouterr()
    assert "make test-ray" in said.out + said.err


def test_one_replica_is_no_choice(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["bench", "affinity", "--replicas", "1"]) == 2
    assert "nothing to choose" in capsys.readouterr().err
