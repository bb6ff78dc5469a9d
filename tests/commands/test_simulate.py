"""``stepwell simulate`` as a newcomer types it: the answer, JSON, a page, and one sentence for bad input."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from stepwell.cli import run

QUICK = ("simulate", "generated", "--count", "6", "--replicas", "2")


def test_a_small_fleet_from_end_to_end(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page, figures, out = tmp_path / "f.html", tmp_path / "f.json", tmp_path / "w.jsonl"
    flags = ["--html", str(page), "--json", str(figures), "--export", str(out), "--fault", "lost:1@30+60"]
    assert run([*QUICK, *flags]) == 0
    assert "simulate: " in capsys.readouterr().out.splitlines()[-1]
    found = json.loads(figures.read_text())
    assert found["report"]["turns"] == len(out.read_text().splitlines())
    assert set(found["margin_by_tier"]) <= {"priority", "default", "flex"}
    assert found["books"]["cost_usd"] > 0
    assert "<svg" in page.read_text() and "seed 1" in page.read_text()


def test_a_seed_gives_the_same_figures(tmp_path: Path) -> None:
    found = []
    for name in ("a", "b"):
        file = tmp_path / name
        assert (
            run([*QUICK, "--json", str(file), "--arrivals", "gamma:1:3", "--what-if", "ssd.usd_gb=0.7"]) == 0
        )
        report = json.loads(file.read_text())["report"]
        found.append({k: v for k, v in report.items() if "cpu_s" not in k})
    assert found[0] == found[1]


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (("nowhere.jsonl",), "no such file or workload"),
        (("generated", "--part", "h2000"), "did you mean"),
        (("generated", "--model", "lama"), "the catalogue has no model"),
        (("generated", "--replicas", "0"), "--replicas"),
        (("generated", "--drives", "-1"), "--drives"),
        (("generated", "--policy", "best"), "--policy best: there is"),
        (("generated", "--fault", "lost"), "--fault lost"),
        (("generated", "--fault", "lost:9@1+1"), "replicas are numbered 0 to"),
        (("generated", "--what-if", "hbm_gb=-3"), "at or above zero"),
        (("generated", "--what-if", "nothing=3"), "no such input"),
        (("generated", "--arrivals", "gamma"), "--arrivals"),
        (("generated", "--count", "0"), "--count"),
        (("generated", "--block-tokens", "1"), "--block-tokens"),
        (("generated", "--bad-share", "2"), "--bad-share"),
        (("generated", "--chips", "1", "--model", "llama-3.1-405b"), "HBM binds"),
        (("generated", "--what-if", "hbm_tb_s=0"), "above zero"),
        (("generated", "--prices", "dear"), "dear"),
    ],
)
def test_bad_input_is_one_sentence(
    flags: tuple[str, ...], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["simulate", *flags]) == 2
    error = capsys.readouterr().err
    assert says in error and len(error.strip().splitlines()) == 1


@pytest.mark.parametrize(
    "figure", ["hbm_tb_s", "tflops_fp8", "host_link_gb_s", "ssd.dwpd", "ssd.life_years", "ssd.read_gb_s"]
)
@pytest.mark.parametrize("command", [("simulate", "generated"), ("plan", "capacity", "h200")])
def test_a_figure_that_is_divided_by_is_not_zero(
    command: tuple[str, ...], figure: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run([*command, "--what-if", f"{figure}=0"]) == 2
    assert "must be above zero" in capsys.readouterr().err
