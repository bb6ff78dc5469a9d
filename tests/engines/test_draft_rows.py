"""Guesses change no bit with these weights: a step of them gives the logits of steps of one token."""

from __future__ import annotations

import pytest
from tests.engines.prefixes import generate, prompt, start

pytest.importorskip("llama_cpp")

from stepwell.engines.base import BatchItem
from stepwell.engines.llamacpp import LlamaCppEngine

SEQUENCES, DRAFT = 4, 14


@pytest.mark.model
def test_a_full_step_of_guesses_gives_the_bits_of_lone_tokens(
    request: pytest.FixtureRequest,
) -> None:
    engine: LlamaCppEngine = request.getfixturevalue("smollm2_engine")[0]
    rows: dict[int, list[bytes]] = {}
    engine.watch_logits = lambda request, logits: rows.setdefault(request, []).append(logits.tobytes())
    items = []
    try:
        for number in range(SEQUENCES):
            tokens = prompt(20 + number, number)
            first = start(engine, number, tokens)
            plain = [first, *generate(engine, number, len(tokens), first, DRAFT + 1)]
            engine.close(number)
            start(engine, 100 + number, tokens)
            items.append(BatchItem(100 + number, len(tokens), plain[: DRAFT + 1], True, DRAFT))
        assert sum(len(item.tokens) for item in items) == engine.info.draft_rows
        assert len(engine.run(items)) == engine.info.draft_rows
        assert all(rows[100 + number] == rows[number] for number in range(SEQUENCES))
        engine.check()
    finally:
        engine.watch_logits = None
        for number in (*range(SEQUENCES), *range(100, 100 + SEQUENCES)):
            engine.close(number)
            engine.forget(number)
