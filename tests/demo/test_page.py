"""The page: every agent is in the picture, and nothing is loaded from anywhere."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from xml.etree import ElementTree

import pytest

from stepwell.demo.page import render_page
from stepwell.demo.picture import common_scale, draw_run
from tests.demo.fake import fake_figures

VOID = {"meta", "br", "hr", "img", "input", "link"}


class Checker(HTMLParser):
    """Notes elements, attributes, and whether every element is closed in order."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes += [(tag, name, value or "") for name, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if not self.open or self.open[-1] not in ("style", "script"):
            self.text += data


def check(page: str) -> Checker:
    checker = Checker()
    checker.feed(page)
    checker.close()
    assert checker.open == []
    return checker


def test_every_agent_has_a_lane_in_both_pictures() -> None:
    figures = fake_figures()
    checker = check(render_page(figures))
    lanes = [value for tag, name, value in checker.attributes if (tag, name) == ("g", "data-agent")]
    assert len(figures.runs[0].lanes) == 21
    assert sorted(lanes) == sorted([*figures.runs[0].lanes, *figures.runs[1].lanes])


def test_nothing_is_loaded_from_anywhere() -> None:
    page = render_page(fake_figures())
    checker = check(page)
    assert "//" not in re.sub(r"^\s*//.*$", "", page, flags=re.MULTILINE)
    assert not [
        item for item in checker.attributes if item[1] in ("src", "href", "xlink:href", "srcset", "action")
    ]
    assert "@import" not in page
    assert set(re.findall(r"url\(([^)]*)\)", page)) == {"#hatch"}


def test_text_from_outside_is_escaped() -> None:
    checker = check(render_page(fake_figures()))
    assert "Why did <stepwells> & their keepers go?" in checker.text
    assert "<b>& others</b>" in checker.text
    assert checker.text.count("A <quote>.") == 6


def test_a_name_cannot_end_the_script() -> None:
    figures = fake_figures()
    run = figures.runs[0]
    lanes = {"almond/</script><script>alert(1)": next(iter(run.lanes.values()))}
    page = render_page(replace(figures, runs=(replace(run, lanes=lanes),)))
    check(page)
    assert "<script>alert" not in page


def test_the_pointer_reads_the_same_lanes() -> None:
    figures = fake_figures()
    page = render_page(figures)
    found = re.search(r'<script type="application/json" id="lanes">(.*?)</script>', page, re.DOTALL)
    assert found is not None
    data = json.loads(found[1])
    assert [set(lanes) for lanes in data] == [set(run.lanes) for run in figures.runs]


def test_pictures_are_xml_with_a_title_and_a_description() -> None:
    figures = fake_figures()
    scale = common_scale(figures.runs)
    for number, run in enumerate(figures.runs):
        svg = ElementTree.fromstring(draw_run(run, figures.customers, scale, f"run-{number}"))
        assert svg.get("role") == "img"
        assert [svg[0].tag, svg[1].tag] == ["title", "desc"]
        assert all(element.text for element in (svg[0], svg[1]))


def test_a_lane_is_drawn_where_its_tokens_lay() -> None:
    """One agent, 100 tokens: on the device for the first half, half on disk for the second."""
    figures = fake_figures()
    run = figures.runs[0]
    agent = next(iter(run.lanes))
    point = replace(run.lanes[agent][0], t_s=0.0, tokens=100, device=100, host=0, disk=0)
    lanes = {agent: (point, replace(point, t_s=5.0, device=50, disk=50))}
    run = replace(run, lanes=lanes, duration_s=10.0, turns=(), answers={}, fill=())
    svg = draw_run(run, figures.customers, common_scale([run]), "r")
    paths = dict(re.findall(r'<path class="kv-(\w+)" d="([^"]+)"', svg))
    assert set(paths) == {"device", "disk"}
    full, half = (min(float(y) for y in re.findall(r"V([\d.]+)", paths[kind])) for kind in ("device", "disk"))
    base = float(re.search(r"M[\d.]+ ([\d.]+)", paths["disk"])[1])  # type: ignore[index]
    assert base - full == pytest.approx(2 * (base - half), abs=0.2)


def test_one_run_alone_makes_a_page() -> None:
    figures = fake_figures()
    page = render_page(replace(figures, runs=figures.runs[:1], speedup={}, result="done."))
    assert check(page).text.count("without KV tiers") == 0


def test_a_run_without_samples_makes_a_page() -> None:
    figures = fake_figures()
    run = replace(figures.runs[0], lanes=dict.fromkeys(figures.runs[0].lanes, ()), fill=(), turns=())
    page = render_page(replace(figures, runs=(run,)))
    check(page)
    assert all(f'data-agent="{agent}"' in page for agent in run.lanes)
