"""Choosing tokens on a real model: seeds, grammars, biases, penalties, log-probabilities."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from tests.engines.prefixes import step

from stepwell.engines.base import (
    BatchItem,
    SamplingParams,
    TextModel,
    Thinking,
    ThinkingBudget,
    TokenLogprob,
)

PROMPT = "<|im_start|>user\nTell me about the sea.<|im_end|>\n<|im_start|>assistant\n"


@pytest.fixture
def engine(smollm2_engine: tuple[Any, TextModel]) -> Iterator[Any]:
    made, _ = smollm2_engine
    yield made
    made.close(1)
    made.forget(1)
    made.check()


@pytest.fixture
def text(smollm2_engine: tuple[Any, TextModel]) -> TextModel:
    return smollm2_engine[1]


def tokens_of(
    engine: Any, text: TextModel, sampling: SamplingParams, count: int, words: str = PROMPT
) -> list[int]:
    """Up to ``count`` tokens; the end token is the last one if it comes."""
    prompt = text.tokenize(words, add_bos=True, parse_special=True)
    engine.open(1, [], 0, sampling)
    made = [step(engine, 1, 0, prompt)]
    while len(made) < count and not text.is_end(made[-1]):
        made.append(step(engine, 1, len(prompt) + len(made) - 1, [made[-1]]))
    engine.close(1)
    engine.forget(1)
    return made


def words_of(text: TextModel, tokens: list[int]) -> str:
    detokenizer = text.detokenizer()
    return "".join(detokenizer.add(token) for token in tokens) + detokenizer.flush()


def test_a_seed_can_be_repeated_and_another_one_differs(engine: Any, text: TextModel) -> None:
    answers = [tokens_of(engine, text, SamplingParams(temperature=1.5, seed=seed), 12) for seed in (5, 5, 6)]
    assert answers[0] == answers[1] != answers[2]


def test_a_random_seed_is_not_always_the_same(engine: Any, text: TextModel) -> None:
    answers = {tuple(tokens_of(engine, text, SamplingParams(temperature=2.0), 8)) for _ in range(3)}
    assert len(answers) > 1


@pytest.mark.parametrize(
    "narrow", [SamplingParams(top_k=1), SamplingParams(top_p=1e-6), SamplingParams(min_p=1.0)]
)
def test_narrow_sampling_is_greedy(engine: Any, text: TextModel, narrow: SamplingParams) -> None:
    greedy = tokens_of(engine, text, SamplingParams(temperature=0), 6)
    assert tokens_of(engine, text, narrow, 6) == greedy


def test_the_short_way_to_the_best_token_is_the_chains(engine: Any, text: TextModel) -> None:
    """Greedy goes past the chain; with a penalty too small to matter it does not."""
    first = tokens_of(engine, text, SamplingParams(temperature=0), 1)[0]
    for bias in ((), ((30, 3.0), (284, -100.0), (30, 2.0)), ((first, -3.0), (30, -1.0))):
        short = SamplingParams(temperature=0, logit_bias=bias, ignore_eos=True)
        long = replace(short, presence_penalty=1e-9)
        assert tokens_of(engine, text, short, 12) == tokens_of(engine, text, long, 12)


def test_biases_bar_and_force_tokens(engine: Any, text: TextModel) -> None:
    first = tokens_of(engine, text, SamplingParams(temperature=0), 1)[0]
    barred = SamplingParams(temperature=0, logit_bias=((first, -100.0),))
    assert tokens_of(engine, text, barred, 1)[0] != first
    (word,) = text.tokenize(" sea", add_bos=False, parse_special=False)
    forced = SamplingParams(temperature=0, logit_bias=((word, 100.0),))
    assert tokens_of(engine, text, forced, 4) == [word] * 4


def test_penalties_end_repetition(engine: Any, text: TextModel) -> None:
    (word,) = text.tokenize(" sea", add_bos=False, parse_special=False)
    pushed = ((word, 30.0),)
    for penalty in (
        SamplingParams(temperature=0, logit_bias=pushed, presence_penalty=60),
        SamplingParams(temperature=0, logit_bias=pushed, frequency_penalty=60),
        SamplingParams(temperature=0, logit_bias=pushed, repeat_penalty=50.0),
    ):
        assert tokens_of(engine, text, penalty, 4).count(word) == 1


def test_the_end_can_be_ignored(engine: Any, text: TextModel) -> None:
    end = text.tokenize("<|im_end|>", add_bos=False, parse_special=True)
    push = ((end[0], 50.0),)
    assert tokens_of(engine, text, SamplingParams(temperature=0, logit_bias=push), 5) == end
    ignoring = SamplingParams(temperature=0, logit_bias=push, ignore_eos=True)
    assert len(tokens_of(engine, text, ignoring, 5)) == 5


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_schema_is_kept_to(engine: Any, text: TextModel, temperature: float) -> None:
    schema = {
        "type": "object",
        "properties": {"colour": {"enum": ["blue", "grey"]}, "deep": {"type": "boolean"}},
        "required": ["colour", "deep"],
        "additionalProperties": False,
    }
    sampling = SamplingParams(temperature=temperature, seed=3, json_schema=json.dumps(schema))
    made = tokens_of(engine, text, sampling, 40)
    assert text.is_end(made[-1])
    answer = json.loads(words_of(text, made))
    assert answer["colour"] in ("blue", "grey")
    assert isinstance(answer["deep"], bool)


def test_a_text_is_no_longer_than_its_schema_says(engine: Any, text: TextModel) -> None:
    """Longer than parentheses may be deep, by a model that would never stop."""
    most = 250
    (again,) = text.tokenize(" the", add_bos=False, parse_special=False)
    sampling = SamplingParams(
        temperature=0,
        json_schema=json.dumps({"type": "string", "maxLength": most}),
        logit_bias=((again, 100.0),),
    )
    made = tokens_of(engine, text, sampling, most)
    assert text.is_end(made[-1])
    assert most - len(" the") < len(json.loads(words_of(text, made))) <= most


def test_an_empty_schema_means_any_object(engine: Any, text: TextModel) -> None:
    made = tokens_of(engine, text, SamplingParams(temperature=0, json_schema="{}"), 3)
    assert words_of(text, made).lstrip().startswith("{")


def test_a_grammar_is_kept_to_whatever_the_bias(engine: Any, text: TextModel) -> None:
    end = text.tokenize("<|im_end|>", add_bos=False, parse_special=True)[0]
    sampling = SamplingParams(
        temperature=0, grammar='root ::= "ja" | "nein"', ignore_eos=True, logit_bias=((end, -100.0),)
    )
    made = tokens_of(engine, text, sampling, 10)
    assert words_of(text, made) in ("ja", "nein")
    assert text.is_end(made[-1])


def test_an_answer_that_cannot_go_on_fails(engine: Any, text: TextModel) -> None:
    """The first token that the grammar wants is barred: the answer ends, and says why."""
    prompt = text.tokenize(PROMPT, add_bos=True, parse_special=True)
    barred = [token for token in range(engine.info.vocab_size) if text.token_bytes(token) in (b"j", b"ja")]
    bias = tuple((token, -math.inf) for token in barred)
    engine.open(1, [], 0, SamplingParams(temperature=0, grammar='root ::= "ja"', logit_bias=bias))
    (sampled,) = engine.run([BatchItem(1, 0, prompt, True)])
    assert text.is_end(sampled.token)
    assert "logit_bias" in sampled.failed


def test_log_probabilities_are_those_of_the_untouched_logits(engine: Any, text: TextModel) -> None:
    vocab = engine.info.vocab_size
    rows: list[list[float]] = []
    engine.watch_logits = lambda _request, row: rows.append([float(x) for x in row])
    try:
        engine.open(1, [], 0, SamplingParams(temperature=0.7, seed=1, logprobs=5, presence_penalty=1.0))
        prompt = text.tokenize(PROMPT, add_bos=True, parse_special=True)
        (sampled,) = engine.run([BatchItem(1, 0, prompt, True)])
    finally:
        engine.watch_logits = None
    assert len(rows[0]) == vocab
    norm = math.log(math.fsum(math.exp(x) for x in rows[0]))
    assert sampled.logprob is not None
    assert sampled.logprob.logprob == pytest.approx(rows[0][sampled.token] - norm, abs=1e-4)
    best = sorted(range(vocab), key=lambda token: (-rows[0][token], token))[:5]
    assert [top.token for top in sampled.top_logprobs] == best
    assert all(
        top.logprob == pytest.approx(rows[0][top.token] - norm, abs=1e-4) for top in sampled.top_logprobs
    )


def test_all_log_probabilities_sum_to_one() -> None:
    import numpy as np

    from stepwell.engines.llamacpp.sampling import logprobs

    logits = np.array([3.0, -1.0, 3.0, 0.5, -30.0], np.float32)
    chosen, top = logprobs(logits, 3, 5)
    assert math.fsum(math.exp(entry.logprob) for entry in top) == pytest.approx(1.0)
    assert [entry.token for entry in top] == [0, 2, 3, 1, 4]
    assert chosen == TokenLogprob(3, top[2].logprob)
    assert logprobs(logits, 0, 0)[1] == ()


BAD = {
    "only itself": SamplingParams(grammar="root ::= again\nagain ::= root"),
    "nothing": SamplingParams(grammar='root ::= root "a"'),
    "no character": SamplingParams(grammar='root ::= "\\uD800"'),
    "deep rules": SamplingParams(
        grammar="\n".join(["root ::= r0", *(f'r{i} ::= "a" r{i + 1}' for i in range(5000)), 'r5000 ::= "a"'])
    ),
    "regex": SamplingParams(regex="(a"),
    "regex repeats": SamplingParams(regex="(a{1000}){1000}"),
    "regex looks ahead": SamplingParams(regex="(?!a)b"),
    "lark": SamplingParams(grammar="start: nothing"),
    "deep lark": SamplingParams(grammar="start: " + "(" * 20_000 + '"a"' + ")" * 20_000),
    "comment ends at CR": SamplingParams(grammar='root ::= "a"\n#\rx ::= ' + "(" * 200_000 + "\n"),
    "schema chain": SamplingParams(
        json_schema=json.dumps(
            {
                "$ref": "#/$defs/a0",
                "$defs": {f"a{i}": {"properties": {"x": {"$ref": f"#/$defs/a{i + 1}"}}} for i in range(3000)}
                | {"a3000": {}},
            }
        )
    ),
    "schema multiple": SamplingParams(json_schema='{"type": "integer", "multipleOf": 1000003}'),
    "unknown rule": SamplingParams(grammar="root ::= nothing"),
    "no root": SamplingParams(grammar='tree ::= "a"'),
    "unread": SamplingParams(grammar='root ::= "a'),
    "nested": SamplingParams(grammar="root ::= " + "(" * 300 + '"a"' + ")" * 300),
    "unmatched": SamplingParams(grammar='root ::= ("a"'),
    "long": SamplingParams(grammar='root ::= "' + "a" * 300_000 + '"'),
    "schema syntax": SamplingParams(json_schema="{"),
    "schema kind": SamplingParams(json_schema="[1]"),
    "schema type": SamplingParams(json_schema='{"type": "colour"}'),
    "schema ref": SamplingParams(json_schema='{"$ref": "https://example.org/schema.json"}'),
    "schema depth": SamplingParams(json_schema='{"not": ' * 300 + "{}" + "}" * 300),
    "schema length": SamplingParams(json_schema='{"type": "string", "maxLength": 10000000000}'),
    "schema entries": SamplingParams(json_schema='{"type": "array", "items": {}, "minItems": 1e12}'),
    "schema pattern": SamplingParams(
        json_schema='{"type": "string", "pattern": "^(((a{1000}){1000}){1000})$"}'
    ),
    "schema open pattern": SamplingParams(json_schema='{"type": "string", "pattern": "^a{999999999,}$"}'),
    "both": SamplingParams(json_schema="{}", grammar='root ::= "a"'),
    "temperature": SamplingParams(temperature=math.nan),
    "top_p": SamplingParams(top_p=0.0),
    "logprobs": SamplingParams(logprobs=10_000),
    "bias token": SamplingParams(logit_bias=((1 << 40, 1.0),)),
    "bias value": SamplingParams(logit_bias=((1, math.inf),)),
}


@pytest.mark.parametrize("name", BAD)
def test_what_cannot_be_honoured_is_refused_in_one_sentence(engine: Any, name: str) -> None:
    with pytest.raises(ValueError) as error:
        engine.validate(BAD[name])
    assert 10 < len(str(error.value)) < 400
    assert "\n" not in str(error.value)


def test_many_long_texts_compile(engine: Any, text: TextModel) -> None:
    texts = {str(n): {"type": "string", "maxLength": 2_000} for n in range(16)}
    schema = json.dumps({"type": "object", "properties": texts})
    sampling = SamplingParams(temperature=0, json_schema=schema)
    engine.validate(sampling)
    assert words_of(text, tokens_of(engine, text, sampling, 4)).lstrip().startswith("{")


def test_a_long_chain_of_rules_is_harmless(engine: Any, text: TextModel) -> None:
    rules = [f"r{i} ::= r{i + 1}" for i in range(5000)]
    sampling = SamplingParams(temperature=0, grammar="\n".join(["root ::= r0", *rules, 'r5000 ::= "a"']))
    engine.validate(sampling)
    assert words_of(text, tokens_of(engine, text, sampling, 1)) == "a"


def test_reasoning_beyond_its_budget_is_ended(engine: Any, text: TextModel) -> None:
    """The model is made to go on after the mark: what it says then is its answer."""
    marks = Thinking("", "</think>", "\n</think>\n\n")
    free = tokens_of(engine, text, SamplingParams(temperature=0), 12)
    for temperature in (0.0, 1.0):
        sampling = SamplingParams(temperature=temperature, seed=3, thinking=ThinkingBudget(marks, 4))
        said = words_of(text, made := tokens_of(engine, text, sampling, 16))
        thought, mark, answer = said.partition("\n</think>\n\n")
        assert mark and answer
        assert text.tokenize(thought, add_bos=False, parse_special=False) == made[:4]
    assert free[:4] == tokens_of(
        engine, text, SamplingParams(temperature=0, thinking=ThinkingBudget(marks, 4)), 4
    )


def test_reasoning_that_never_began_or_ended_in_time_is_left_alone(engine: Any, text: TextModel) -> None:
    free = tokens_of(engine, text, SamplingParams(temperature=0), 12)
    unopened = Thinking("<think>", "</think>", "</think>")
    closing = words_of(text, free[:2])
    for marks in (unopened, Thinking("", closing, "</think>")):
        sampling = SamplingParams(temperature=0, thinking=ThinkingBudget(marks, 3))
        assert tokens_of(engine, text, sampling, 12) == free
