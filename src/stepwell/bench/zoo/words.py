"""The vocabulary of every model in the zoo: GPT-2's letters for the 256 bytes, a few merges, turn marks."""

from __future__ import annotations

CHAT = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
SIZE = 288
_MERGES = ("t h", "i n", "e r", "a n", "o n", "r e", "th e", "in g")
_MARKS = ("<|end|>", "<|im_start|>", "<|im_end|>")
_NORMAL, _CONTROL, _UNUSED = 1, 3, 5


def letters() -> list[str]:
    """GPT-2's letters for the 256 bytes."""
    plain = {*range(33, 127), *range(161, 173), *range(174, 256)}
    others = iter(range(256, 512))
    return [chr(byte) if byte in plain else chr(next(others)) for byte in range(256)]


def settings(size: int = SIZE) -> dict[str, object]:
    """The ``tokenizer`` part of a header with ``size`` tokens."""
    normal = [*letters(), *(pair.replace(" ", "") for pair in _MERGES)]
    tokens = [*normal, *_MARKS]
    kinds = [_NORMAL] * len(normal) + [_CONTROL] * len(_MARKS)
    spare = size - len(tokens)
    end = len(normal)
    roles = dict.fromkeys(("bos", "eos", "padding", "seperator", "cls", "mask"), end)
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "gpt-2",
        "tokenizer.ggml.tokens": [*tokens, *(f"<unused{n}>" for n in range(spare))],
        "tokenizer.ggml.token_type": kinds + [_UNUSED] * spare,
        "tokenizer.ggml.merges": list(_MERGES),
        "tokenizer.ggml.token_type_count": 2,
        **{f"tokenizer.ggml.{role}_token_id": token for role, token in roles.items()},
        "tokenizer.ggml.eot_token_id": end + 2,
        "tokenizer.ggml.add_bos_token": False,
        "tokenizer.chat_template": CHAT,
    }
