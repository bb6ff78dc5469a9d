"""A process that answers lines may be late, end or say too much, and whoever asks notices."""

from __future__ import annotations

import os
import re
import resource
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from stepwell.basics import line_child
from stepwell.basics.line_child import LineChild, LineChildren
from stepwell.library.confined import extract_confined
from stepwell.library.documents import Limits

MODULE = "tests.basics.echo_child"
ROOT = Path(__file__).parents[2]
ENV = os.environ | {"PYTHONPATH": str(ROOT)}


@pytest.fixture
def child() -> Iterator[LineChild]:
    made = LineChild(MODULE, ENV)
    yield made
    made.close()


def test_questions_of_any_length_are_answered(child: LineChild) -> None:
    for text in (b"say", b"say " + b"y" * 1_000_000, b"say again"):
        assert child.ask(text, 60.0, 2_000_000) == text


def test_one_that_does_not_answer_is_not_waited_for(child: LineChild) -> None:
    with pytest.raises(TimeoutError):
        child.ask(b"sleep", 0.05, 100)
    assert child.close() == -signal.SIGKILL
    assert not child.lives()


def test_one_that_does_not_read_is_not_waited_for(child: LineChild) -> None:
    os.kill(child.pid, signal.SIGSTOP)
    with pytest.raises(TimeoutError):
        child.ask(b"say " + b"y" * 10_000_000, 0.05, 100)


@pytest.mark.parametrize(("question", "code"), [(b"end", -signal.SIGTERM), (b"leave", 3)])
def test_one_that_ends_says_with_what(question: bytes, code: int, child: LineChild) -> None:
    with pytest.raises(EOFError):
        child.ask(question, 60.0, 100)
    assert child.close() == code
    with pytest.raises((EOFError, ValueError)):
        child.ask(b"say", 60.0, 100)


def test_no_more_is_held_than_was_wanted(child: LineChild) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(OverflowError):
        child.ask(b"make 300000000", 60.0, 1_000_000)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000


def test_a_program_with_many_descriptors_has_children_as_well() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if 0 <= hard < 1_200:
        pytest.skip("no more than 1,024 descriptors are allowed here")
    resource.setrlimit(resource.RLIMIT_NOFILE, (1_200, hard))
    many = [os.dup(0) for _ in range(1_100)]
    try:
        child = LineChild(MODULE, ENV)
        assert child.ask(b"say", 60.0, 100) == b"say"
        child.close()
    finally:
        for descriptor in many:
            os.close(descriptor)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_one_without_a_parent_ends(child: LineChild) -> None:
    child._to.close()
    assert child._process.wait(60.0) == 0


def test_a_module_that_does_not_start_is_said_so() -> None:
    with pytest.raises(EOFError):
        LineChild("tests.there_is_no_such_module")


@pytest.fixture
def children() -> Iterator[LineChildren]:
    made = LineChildren(MODULE, 2, ENV)
    yield made
    made.close()


def test_children_are_kept_and_at_most_so_many(children: LineChildren) -> None:
    with children.lent(60.0) as first, children.lent(60.0) as second, pytest.raises(TimeoutError):  # noqa: SIM117
        with children.lent(0.0):
            raise AssertionError("a third")
    with children.lent(60.0) as again:
        assert again in (first, second)


def test_one_that_failed_is_not_kept(children: LineChildren) -> None:
    with pytest.raises(EOFError), children.lent(60.0) as failed:
        failed.ask(b"leave", 60.0, 100)
    with children.lent(60.0) as other:
        assert other is not failed
        assert other.ask(b"say", 60.0, 100) == b"say"


def test_one_that_was_killed_or_waited_long_is_replaced(
    children: LineChildren, monkeypatch: pytest.MonkeyPatch
) -> None:
    with children.lent(60.0) as killed:
        pass
    os.kill(killed.pid, signal.SIGKILL)
    killed._process.wait(60.0)
    with children.lent(60.0) as old:
        assert old is not killed
    monkeypatch.setattr(line_child, "IDLE_S", 0.0)
    with children.lent(60.0) as fresh:
        assert fresh is not old
        assert not old.lives()


def test_whoever_waits_gets_the_place_of_one_that_is_done(children: LineChildren) -> None:
    said: list[bytes] = []

    def ask(number: int) -> None:
        with children.lent(60.0) as child:
            said.append(child.ask(b"say %d" % number, 60.0, 100))

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(said) == sorted(b"say %d" % number for number in range(12))
    assert len(children._idle) <= 2


def test_what_lies_in_the_current_folder_is_no_module_of_ours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A person works in a folder of files that others have sent."""
    for name in ("json", "duckdb", "stepwell", "resource"):
        (tmp_path / f"{name}.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w').close()")
    monkeypatch.chdir(tmp_path)
    child = LineChild("stepwell.agents.tools.sql_child")
    child.close()
    assert extract_confined(b"The well is deep.", "a.txt", Limits()).text.strip() == "The well is deep."
    assert not (tmp_path / "ran").exists()


def test_no_process_of_the_product_takes_modules_from_the_current_folder() -> None:
    sources = [path for path in (ROOT / "src" / "stepwell").rglob("*.py") if "bench" not in path.parts]
    unsafe = re.compile(r"""sys\.executable,\s*(?:\*\()?"-m\"""")
    assert not [path.name for path in sources if unsafe.search(path.read_text("utf-8"))]
