"""The roles that ship: instructions short enough for a small model, and the form of their answers."""

from __future__ import annotations

from typing import Any

WRITER = "writer"
"""Writes the answer from what others have found; every crew with a planner has one that does not drop it."""
MAX_STEPS = 5
TEXT_CHARS = 120
"""Of a task or a reason. Some servers' grammars nest as deep as a bounded text is long."""
STEP_IDS = tuple(f"s{number}" for number in range(1, MAX_STEPS + 1))


def plan_schema(
    roles: tuple[str, ...], fewest: int = 0, *, most: int = MAX_STEPS, splits: bool = True
) -> dict[str, Any]:
    """A short plan: a graph of ``fewest`` to ``most`` steps for ``roles``, with a task each if it splits."""
    ids = list(STEP_IDS[:most])
    step: dict[str, Any] = {
        "type": "object",
        "properties": {
            "id": {"type": "string", "enum": ids},
            "role": {"type": "string", "enum": list(roles)},
            "task": {"type": "string", "maxLength": TEXT_CHARS},
            "needs": {"type": "array", "items": {"type": "string", "enum": ids}, "maxItems": most - 1},
        },
        "required": ["id", "role", "task", "needs"],
        "additionalProperties": False,
    }
    if not splits:
        del step["properties"]["task"]
        step["required"].remove("task")
    return {
        "type": "object",
        "properties": {
            "done": {"type": "boolean", "enum": [False] if fewest else [False, True]},
            "steps": {"type": "array", "items": step, "minItems": fewest, "maxItems": most},
        },
        "required": ["done", "steps"],
        "additionalProperties": False,
    }


VERDICT_SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "ok": {"type": "boolean"},
        "score": {"type": "integer", "minimum": 0, "maximum": 10},
        "reason": {"type": "string", "maxLength": TEXT_CHARS},
    },
    "required": ["ok", "score", "reason"],
    "additionalProperties": False,
}
CHOICE_SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "best": {"type": "integer", "minimum": 1, "maximum": 20},
        "reason": {"type": "string", "maxLength": TEXT_CHARS},
    },
    "required": ["best", "reason"],
    "additionalProperties": False,
}

SHIPPED: dict[str, dict[str, Any]] = {
    "planner": {
        "instructions": "You plan the work of others. Split the question into at most five short steps. Each "
        "step has an id (s1 to s5), a role, a task in one sentence, and the ids of the steps "
        "whose results it needs. Steps that need nothing run at once. When the results answer "
        "the question, say done and give no steps.",
        "plans": True,
        "max_tokens": 512,
    },
    "reader": {
        "description": "finds the answer to a question in the documents",
        "instructions": "Answer from the text in a few words.",  # more of it leads the smallest models astray
        "reads": True,
        "max_tokens": 48,
    },
    "solver": {
        "description": "solves one small task, with numbers or by reasoning",
        "instructions": "You solve one small task. Think in a few short steps and end with the answer in one "
        "sentence. Calculate with the calculator where you have one.",
        "max_tokens": 256,
    },
    "coder": {
        "description": "writes a small Python program",
        "instructions": "You write small Python programs and run them with the python tool until they do "
        "what is asked. Print what you want to see. End with the program and what it printed.",
        "tools": ("python",),
        "max_tokens": 512,
    },
    "critic": {
        "description": "names the worst fault of a piece of work",
        "instructions": "You look for what is wrong or missing in a piece of work. Name the worst fault in "
        "one sentence, and how to mend it in another. If there is none, say: no fault found.",
        "max_tokens": 128,
    },
    "verifier": {
        "description": "checks an answer against the results it rests on",
        "instructions": "You check an answer against the question and the results it rests on. Say ok only "
        "when it answers the question and every claim in it stands in the results. Score it "
        "from 0 to 10.",
        "output": "json",
        "schema": VERDICT_SCHEMA,
        "max_tokens": 160,
    },
    "judge": {
        "description": "chooses the best of several answers",
        "instructions": "You are given a question and several numbered answers. Choose the best one.",
        "output": "json",
        "schema": CHOICE_SCHEMA,
        "max_tokens": 128,
    },
    WRITER: {
        "description": "writes the answer from the results of others",
        "instructions": "You write the answer to the question from the results that you are given: short, "
        "plain, and with nothing that is not in the results.",
        "max_tokens": 256,
    },
}
"""Per name: the settings of ``Role``; a crew's own settings win over them."""
