"""A GGUF vocabulary as llguidance sees it: the exact bytes of every token, and which tokens are not text."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass

import llama_cpp as lib
from llguidance import LLTokenizer, TokenizerWrapper

from stepwell.engines.llamacpp.native import NativeModel

_MARK = b"\xff"
"""What llguidance knows a token by that is not text."""
_HIDDEN = lib.LLAMA_TOKEN_ATTR_CONTROL | lib.LLAMA_TOKEN_ATTR_UNKNOWN | lib.LLAMA_TOKEN_ATTR_UNUSED


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """``pieces[token]``: the bytes that the detokenizer writes, or the name of a token that is not text."""

    pieces: tuple[bytes, ...]
    special: tuple[int, ...]
    """Never taken as text: control tokens, unknown ones, and marks such as ``<tool_call>``."""
    ends: tuple[int, ...]
    """Tokens that end generation."""


def vocabulary_of(model: NativeModel) -> Vocabulary:
    pieces: list[bytes] = []
    special: list[int] = []
    for token in range(model.vocab_size):
        text = model.piece(token, special=False)
        attributes = lib.llama_vocab_get_attr(model.vocab, token)
        is_mark = attributes & lib.LLAMA_TOKEN_ATTR_USER_DEFINED and text[:1] == b"<" and text[-1:] == b">"
        if attributes & _HIDDEN or is_mark or not text:
            special.append(token)
            text = model.piece(token, special=True) or b"<|%d|>" % token
        pieces.append(text)
    ends = tuple(token for token in range(model.vocab_size) if model.is_end(token))
    return Vocabulary(tuple(pieces), tuple(special), ends)


def marks_of(vocabulary: Vocabulary) -> dict[str, int]:
    """The tokens that are no text, by their name."""
    return {vocabulary.pieces[token].decode("utf-8", "replace"): token for token in vocabulary.special}


def tokenizer_of(model: NativeModel, vocabulary: Vocabulary) -> LLTokenizer:
    """Takes up to a second; make one per model, and none after the model is freed. Thread-safe.

    llguidance asks llama.cpp how a text that its grammar forces is best spelled.
    """
    special = frozenset(vocabulary.special)
    marked = [_MARK * (token in special) + piece for token, piece in enumerate(vocabulary.pieces)]
    function = ctypes.cast(lib.llama_cpp._lib.llama_tokenize, ctypes.c_void_p).value
    return LLTokenizer.from_llamacpp(  # type: ignore[attr-defined,no-any-return]
        tokens=marked,
        vocab_ptr=ctypes.cast(model.vocab, ctypes.c_void_p).value,
        tokenize_fptr=function,
        eos_token=list(vocabulary.ends),
        slices=None,
    )


class _Bytes:
    """One token a byte, as ``TokenizerWrapper`` wants a tokenizer."""

    eos_token_id = 256
    bos_token_id = None
    tokens = (*(bytes((byte,)) for byte in range(256)), b"<|end|>")
    special_token_ids = (256,)

    def __call__(self, text: bytes | str) -> list[int]:
        return list(text.encode() if isinstance(text, str) else text)


def bytes_tokenizer() -> LLTokenizer:
    """A vocabulary for trying grammars without a model."""
    return LLTokenizer(TokenizerWrapper(_Bytes()))
