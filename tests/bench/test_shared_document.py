"""A document attached by many: what is counted, on the null engine and on paper."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from stepwell import cli
from stepwell.bench.server.shared_document import AT_ONCE, IN_TURN, STRANGERS, DocumentAttached, verdicts


def attached(name: str, computed: list[int], **tokens: int) -> DocumentAttached:
    """Agents with prompts of 1,045 tokens, of which 1,000 are the document."""
    prompts = [1_045] * len(computed)
    routes = {"computed": sum(computed), "device": 0, "host": 0, "disk": 0} | tokens
    return DocumentAttached(name, len(computed), 1_000, prompts, computed, routes)


def test_it_is_computed_as_often_as_agents_computed_what_is_not_their_own() -> None:
    once = attached(AT_ONCE, [1_045, 61, 29])
    assert (once.of_document, once.times, once.computing_agents) == ([1_000, 16, 0], 1.016, 1)
    twice = attached(IN_TURN, [1_045, 900])
    stranger = attached(STRANGERS, [1_045], device=16)
    reached = [one.reached for one in verdicts([once, twice, stranger])]
    assert reached == [True, True, False, False, False]


def test_on_the_null_engine_it_is_computed_once(tmp_path: Path) -> None:
    """The command as a whole: server, library, two tenants."""
    file = tmp_path / "x.json"
    arguments = ["--model", "null", "--quick", "--words", "100", "--agents", "3", "--json", str(file)]
    assert cli.run(["bench", "shared-document", *arguments]) == 0
    data: dict[str, Any] = json.loads(file.read_text("utf-8"))
    found = data["results"]
    assert set(found) == {AT_ONCE, IN_TURN, STRANGERS}
    for name in AT_ONCE, IN_TURN:
        assert found[name]["tokens"]["computed"] == sum(found[name]["computed"])
        # The first after the strangers' warm-up, or whoever came first of those at once.
        assert (
            sum(1 for tokens in found[name]["computed"] if tokens > found[name]["document_tokens"] // 2) == 1
        )
    assert sum(found[STRANGERS]["tokens"][route] for route in ("device", "host", "disk")) == 0
    assert all(verdict["reached"] is not False for verdict in data["verdicts"])
