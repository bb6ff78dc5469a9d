"""The process of one model: a JSON object a line in, one a line out.

``python -m stepwell.embed.child WISHES`` (JSON text, see ``Wishes``). The first question is
``{"about": true}``: it loads the model, and the answer says what that is, or what is wrong with it. Further
ones: ``{"embed": [...], "cut": 0}`` and ``{"rank": [query, [...]]}``; with
``"dry": true`` tokens are counted and nothing is computed. Each answer says how long was computed. The
process ends with its standard input, and without a question for a while: the next one starts another.
"""

from __future__ import annotations

import base64
import json
import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from stepwell.basics.line_child import answer, questions, ready
from stepwell.embed.base import MINILM, EmbeddingModel, Input, Wishes, WrongInput
from stepwell.errors import StepwellError

NICE = 10


def load(wishes: Wishes) -> EmbeddingModel:
    """Raises ``StepwellError``."""
    if wishes.model == MINILM:
        from stepwell.embed.minilm import MiniLmModel

        return MiniLmModel()
    from stepwell.embed.gguf import GgufModel

    return GgufModel(Path(wishes.model), wishes.threads, wishes.max_tokens)


def found(model: EmbeddingModel, question: dict[str, Any]) -> dict[str, Any]:
    """Raises ``WrongInput`` before anything is computed, ``StepwellError`` when it could not be."""
    if "rank" in question:
        query, documents = question["rank"]
        if not model.about.ranks:
            return _near(model, query, documents, dry=question["dry"])
        pairs = _checked(model, [model.pair(query, document) for document in documents])
        scores = [] if question["dry"] else model.scores(pairs)
        return {"scores": scores, "tokens": list(map(len, pairs))}
    tokens = _checked(model, [model.tokens(one) for one in question["embed"]], question["cut"])
    if question["dry"]:
        return {"tokens": list(map(len, tokens))}
    vectors = [base64.b64encode(vector.tobytes()).decode() for vector in model.vectors(tokens)]
    return {"vectors": vectors, "tokens": list(map(len, tokens))}


def _near(model: EmbeddingModel, query: str, documents: Sequence[Input], *, dry: bool) -> dict[str, Any]:
    """Cosines, of a model that was not trained to rank. The question is read once for each slice and counted
    with its first document."""
    tokens = _checked(model, [model.tokens(one) for one in (*documents, query)])
    counts = list(map(len, tokens))
    counts[0] += counts.pop()
    if dry:
        return {"tokens": counts}
    *vectors, asked = model.vectors(tokens)
    scores = [sum(a * b for a, b in zip(vector, asked, strict=True)) for vector in vectors]
    return {"scores": scores, "tokens": counts}


def _checked(model: EmbeddingModel, inputs: list[list[int]], cut: int = 0) -> list[list[int]]:
    """``cut``: the first so many tokens of each are enough."""
    about = model.about
    for index, one in enumerate(inputs):
        if cut:
            del one[cut:]
        if not one:
            raise WrongInput("it has no tokens", index)
        if len(one) > about.max_tokens:
            raise WrongInput(f"it has {len(one)} tokens, and this model reads {about.max_tokens}", index)
        wrong = next((token for token in one if not 0 <= token < about.vocab_size), None)
        if wrong is not None:
            raise WrongInput(f"token {wrong} does not exist: this model has {about.vocab_size} tokens", index)
    return inputs


def _said(model: EmbeddingModel, line: bytes) -> dict[str, Any]:
    """With ``us``: how long the model has computed for it, and ``all_us``: for all questions so far."""
    before_us = model.spent_us
    try:
        said = found(model, json.loads(line))
    except WrongInput as error:
        said = {"wrong": str(error), "index": error.index}
    except StepwellError as error:
        said = {"error": str(error)}
    return {**said, "us": model.spent_us - before_us, "all_us": model.spent_us}


def main(wishes: Wishes) -> None:
    """Until standard input ends or no more questions come."""
    if wishes.low_priority:
        os.nice(NICE)
    answers, model = ready(), None
    for line in questions(wishes.idle_s):
        if model is not None:
            said = _said(model, line)
        else:
            try:
                model = load(wishes)
                said = asdict(model.about)
            except StepwellError as error:
                said = {"error": str(error)}
        answer(answers, json.dumps(said).encode())


if __name__ == "__main__":
    with suppress(KeyboardInterrupt, BrokenPipeError):
        main(Wishes(**json.loads(sys.argv[1])))
