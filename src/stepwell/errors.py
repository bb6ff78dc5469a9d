"""Errors that are one clear sentence for the person at the keyboard, never a traceback.

Whatever is raised here says what is wrong, where, and what to do. ``cli.main`` prints the sentence
to standard error and ends with ``exit_code``.
"""

from __future__ import annotations


class StepwellError(Exception):
    """Something expected went wrong while working (a port in use, a disk that is locked)."""

    exit_code = 1


class BadInput(StepwellError):
    """What the person asked for cannot be done as asked (a flag, a setting, a file)."""

    exit_code = 2


class UnfitModel(BadInput):
    """A model that is damaged, of a kind that is not served, or too large for what was asked."""


class MissingExtra(StepwellError):
    """A part of Stepwell that is installed on request is not installed."""

    def __init__(self, what: str, extra: str) -> None:
        super().__init__(f"{what} needs the extra '{extra}': in the checkout run  {install_line(extra)}")
        self.extra = extra


def install_line(extra: str) -> str:
    """The command that brings an extra into the checkout's own environment."""
    return f".venv/bin/pip install -c constraints.txt -e '.[{extra}]'"
