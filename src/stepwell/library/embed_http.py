"""Embeddings of any server that speaks OpenAI's ``/v1/embeddings``: llama.cpp, vLLM, OpenAI itself."""

from __future__ import annotations

import time
from array import array
from collections.abc import Sequence
from typing import Any

import httpx2

from stepwell.errors import BadInput
from stepwell.library.embeddings import EmbeddingsAway, unit

AT_ONCE = 32
"""Texts in one request: some servers take no more."""
ATTEMPTS = 3
PAUSE_S = 0.5
TIMEOUT_S = 60.0
_AGAIN = {408, 429, 500, 502, 503, 504}


class HttpEmbedder:
    """See ``Embedder``."""

    def __init__(self, url: str, model: str, key: str = "", timeout_s: float = TIMEOUT_S) -> None:
        """``url`` ends before ``/embeddings``, as in ``http://127.0.0.1:8080/v1``. Raises ``BadInput``."""
        if not url.startswith(("http://", "https://")):
            raise BadInput(f"[library] embeddings {url} is no URL: write it like http://127.0.0.1:8080/v1")
        self.model = model
        self._url = url.rstrip("/").removesuffix("/embeddings") + "/embeddings"
        self._headers = {"authorization": f"Bearer {key}"} if key else {}
        self._timeout_s = timeout_s

    def embed(self, texts: Sequence[str]) -> list[array[float]]:
        """See ``Embedder``."""
        vectors: list[array[float]] = []
        with httpx2.Client(headers=self._headers, timeout=self._timeout_s) as client:
            for at in range(0, len(texts), AT_ONCE):
                vectors += self._batch(client, texts[at : at + AT_ONCE])
        if len({len(vector) for vector in vectors}) > 1:
            raise EmbeddingsAway(f"{self._url} gives embeddings of different lengths")
        return vectors

    def _batch(self, client: httpx2.Client, texts: Sequence[str]) -> list[array[float]]:
        body = {"model": self.model, "input": list(texts), "encoding_format": "float"}
        answer = self._answer(client, body)
        try:
            found = {item["index"]: unit(item["embedding"]) for item in answer["data"]}
            return [found[number] for number in range(len(texts))]
        except (TypeError, KeyError, ValueError, OverflowError) as error:
            raise EmbeddingsAway(f"{self._url} does not answer with one embedding for each text") from error

    def _answer(self, client: httpx2.Client, body: dict[str, Any]) -> dict[str, Any]:
        problem = ""
        for attempt in range(ATTEMPTS):
            if attempt:
                time.sleep(PAUSE_S * 2**attempt)
            try:
                answer = client.post(self._url, json=body)
                if answer.status_code not in _AGAIN:
                    return self._read(answer)
                problem = f"status {answer.status_code}"
            except httpx2.TransportError as error:
                problem = str(error) or type(error).__name__
            except httpx2.HTTPError as error:
                raise EmbeddingsAway(f"{self._url} cannot be asked: {error}") from error
        raise EmbeddingsAway(f"{self._url} cannot be asked: {problem}")

    def _read(self, answer: httpx2.Response) -> dict[str, Any]:
        try:
            found = answer.json()
        except ValueError as error:
            raise EmbeddingsAway(f"{self._url} does not answer in JSON") from error
        if answer.is_success and isinstance(found, dict):
            return found
        raise EmbeddingsAway(f"{self._url} says no: status {answer.status_code}")
