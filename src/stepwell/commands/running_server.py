"""Questions to a server that runs, as its operator."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Annotated, Any

import httpx2
from cyclopts import Parameter

from stepwell.errors import StepwellError

ANSWER_S = 30.0


@Parameter(name="*")
@dataclass(frozen=True, slots=True)
class RunningServer:
    """Which server is asked, and with whose key."""

    server: Annotated[str, Parameter(help="The server that runs.")] = "http://127.0.0.1:8000"
    key: Annotated[
        str | None,
        Parameter(help="An operator's API key, where there are keys. [$OPENAI_API_KEY]"),
    ] = None

    def get(self, path: str, **query: str) -> Any:
        return self.ask("GET", path, params=query)

    def ask(self, method: str, path: str, **request: Any) -> Any:
        """The answer as JSON. Raises ``StepwellError`` with one sentence, the server's own if it has one."""
        key = self.key or os.environ.get("OPENAI_API_KEY", "")
        headers = {"authorization": f"Bearer {key}"} if key else {}
        url = self.server.rstrip("/").removesuffix("/v1") + path
        try:
            with httpx2.Client(trust_env=False, timeout=ANSWER_S) as client:
                answer = client.request(method, url, headers=headers, **request)
        except (httpx2.HTTPError, httpx2.InvalidURL, ValueError) as error:
            raise StepwellError(f"no answer from {self.server}: {error}") from error
        try:
            body = answer.json()
        except ValueError as error:
            raise StepwellError(f"{self.server} answers {answer.status_code}, and not in JSON") from error
        if answer.status_code >= 400:
            raise StepwellError(f"{self.server}: {_message(body) or answer.status_code}")
        return body


def _message(body: object) -> str:
    error = body.get("error") if isinstance(body, dict) else None
    return str(error.get("message", "")) if isinstance(error, dict) else ""
