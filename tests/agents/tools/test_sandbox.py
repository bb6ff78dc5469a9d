"""What code cannot do, layer by layer, and that nothing of it is left when the call returns."""

from __future__ import annotations

import asyncio
import os
import platform
import re
import socket
import sys
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from stepwell.agents.tools import Limits, ToolError, Workspace, build_tools, run_tool, sandbox
from stepwell.agents.tools.coding import CodeVerdict, check_code, show_run, show_verdict
from stepwell.agents.tools.sandbox import MAX_FILES, SandboxRun, describe, run_python

KERNEL = ("network namespace", "landlock", "seccomp")
LIMITS = Limits(wall_s=20.0, cpu_s=10, memory_bytes=256 << 20, output_bytes=10_000, scratch_bytes=1 << 20)


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace(tmp_path / "workspace", limits=LIMITS)


def run(code: str, workspace: Workspace, without: tuple[str, ...] = ()) -> SandboxRun:
    return asyncio.run(run_python(code, workspace, without=without))


def answer(code: str, workspace: Workspace) -> str:
    return show_run(run(code, workspace))


@cache
def layers_here() -> frozenset[str]:
    with tempfile.TemporaryDirectory() as folder:
        return frozenset(run("", Workspace(Path(folder))).said("layers"))


def need(*layers: str) -> None:
    missing = set(layers) - layers_here()
    if missing:
        pytest.skip(f"this system does not allow {', '.join(sorted(missing))}")


@pytest.mark.parametrize(
    ("code", "shown"),
    [
        ("print('a')\n1 + 1", "a\n2"),
        ("x = 3", "(nothing was printed: print what you want to see)"),
        ("None", "(nothing was printed: print what you want to see)"),
        ("", "(nothing was printed: print what you want to see)"),
        ("import sys; print('b', file=sys.stderr)", "b"),
        ("x = 1\nx / 0", "ZeroDivisionError: division by zero (line 2: x / 0)"),
        ("def f(:", "SyntaxError: invalid syntax (line 1: def f(:)"),
        ("import sys; sys.exit('no more')", "The code ended itself with exit(no more)."),
        ("import sys; sys.exit(0)", "(nothing was printed: print what you want to see)"),
        ("print('\\ud800')", "\\ud800"),
        ("input()", "EOFError: EOF when reading a line (line 1: input())"),
        ("import threading\nthreading.Thread(target=lambda: print('t')).start()", "t"),
        ("import os; os._exit(3)", "The run was ended: it ended the interpreter with code 3."),
        ("f = lambda: f()\ntry:\n  f()\nexcept RecursionError:\n  print('deep')", "deep"),
        ("class E(Exception):\n  def __str__(self): 1/0\nraise E", "E (line 3: raise E)"),
        ("import numpy", "ModuleNotFoundError: No module named 'numpy' (line 1: import numpy)"),
        ("import stepwell", "ModuleNotFoundError: No module named 'stepwell' (line 1: import stepwell)"),
    ],
)
def test_what_is_shown(code: str, shown: str, workspace: Workspace) -> None:
    assert answer(code, workspace) == shown


ORDINARY = """
import asyncio, collections, datetime, decimal, fractions, functools, hashlib, itertools, json, math
import dataclasses, random, re, shutil, sqlite3, ssl, statistics, tempfile, typing, uuid, zoneinfo
from pathlib import Path
from typing import Any

async def later():
    await asyncio.sleep(0)
    return 1

assert asyncio.run(later()) == 1
Path("a").write_text("x")
shutil.copy2("a", "b")
Path("b").rename("c")
Path("d/e").mkdir(parents=True)
shutil.rmtree("d")
with tempfile.TemporaryFile() as file, open("/dev/null", "w") as null:
    file.write(b"x")
db = sqlite3.connect("x.db")
db.execute("create table a (b)")
sqlite3.connect(":memory:")
sorted(path.name for path in Path().iterdir())
"""


@pytest.mark.parametrize("without", [(), ("audit hook",), KERNEL], ids=["all", "kernel", "hook"])
def test_ordinary_code_is_not_in_its_way(without: tuple[str, ...], workspace: Workspace) -> None:
    assert show_run(run(ORDINARY, workspace, without)) == "['a', 'c', 'x.db']"


# ruff: noqa: E501
ESCAPES = {
    "a socket": "import socket; socket.socket().connect(('127.0.0.1', {port}))",
    "a connection": "import socket; socket.create_connection(('127.0.0.1', {port}), timeout=5)",
    "a page": "import urllib.request; urllib.request.urlopen('http://127.0.0.1:{port}/', timeout=5)",
    "a datagram": "import socket\ns = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\ns.sendto(b'x', ('127.0.0.1', {port}))",
    "a local socket": "import socket\ns = socket.socket(socket.AF_UNIX)\ns.connect('{folder}/unix')",
    "a foreign file": "open('{folder}/secret').read()",
    "a foreign file by os": "import os; os.read(os.open('{folder}/secret', os.O_RDONLY), 9)",
    "a foreign file by a link": "import os; os.symlink('{folder}/secret', 'l'); open('l').read()",
    "a foreign file by dots": "open('../../secret').read()",
    "a foreign file by bytes": "open(b'{folder}/secret').read()",
    "a foreign file by io": "import io; io.FileIO('{folder}/secret').read()",
    "a foreign file by import": "import importlib.machinery as m; m.SourceFileLoader('s', '{folder}/secret').get_data('{folder}/secret')",
    "a foreign folder": "import os; os.listdir('{folder}')",
    "a foreign database": "import sqlite3; sqlite3.connect('{folder}/secret').execute('create table a (b)')",
    "another's environment": "import os; open('/proc/%d/environ' % os.getppid()).read()",
    "writing outside": "open('{folder}/new', 'w').write('x')",
    "removing outside": "import os; os.remove('{folder}/secret')",
    "renaming outside": "import os; os.rename('{folder}/secret', 'mine')",
    "linking outside": "import os; os.link('{folder}/secret', 'mine'); open('mine').read()",
    "a folder outside": "import os; os.mkdir('{folder}/new')",
    "a shell": "import os; assert os.system('echo x > {folder}/new') == 0",
    "a program": "import subprocess; subprocess.run(['true'], check=True)",
    "another program": "import os; os.execv('/bin/sh', ['sh', '-c', 'exit 0'])",
    "a spawn": "import os; os.posix_spawn('/bin/true', ['true'], {{}})",
    "a child": "import os; os.fork() or os._exit(0)",
    "many children": "import os\nwhile True:\n  os.fork()",
    "a pool": "import multiprocessing as m; m.get_context('fork').Process(target=print).start()",
    "a signal": "import os; os.kill(os.getppid(), 0)",
    "a signal to all": "import os; os.killpg(0, 0) or os.kill(-1, 0)",
    "a slower neighbour": "import os; os.setpriority(os.PRIO_PROCESS, os.getppid(), 19)",
    "a pinned neighbour": "import os; os.sched_setaffinity(os.getppid(), {{0}})",
    "a neighbour that waits": "import os; os.sched_setscheduler(os.getppid(), os.SCHED_IDLE, os.sched_param(0))",
    "its own scheduler": "import os; os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))",
    "a neighbour's limits": "import resource, os; resource.prlimit(os.getppid(), resource.RLIMIT_CPU)",
    "a memory file": "import os; os.memfd_create('x')",
    "a process by its file": "import os; os.pidfd_open(os.getppid())",
    "its own session": "import os; os.setsid()",
    "more memory": "import resource; resource.setrlimit(resource.RLIMIT_CPU, (99, 99))",
}  # fmt: skip


@pytest.mark.parametrize("without", [(), ("audit hook",), KERNEL], ids=["all", "kernel", "hook"])
@pytest.mark.parametrize("code", ESCAPES.values(), ids=ESCAPES)
def test_escapes(code: str, without: tuple[str, ...], workspace: Workspace, tmp_path: Path) -> None:
    """Each kind of layer holds alone: the hook without the kernel, the kernel without the hook."""
    if "audit hook" in without:
        need(*KERNEL)
    secret = tmp_path / "secret"
    secret.write_text("hunter2")
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        outcome = run(code.format(folder=tmp_path, port=port), workspace, without)
        server.setblocking(False)
        with pytest.raises(BlockingIOError):
            server.accept()
    error = outcome.said("error") or ""
    assert "Error" in error, (outcome, error)
    assert "hunter2" not in show_run(outcome)
    assert secret.read_text() == "hunter2"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["secret", "workspace"]
    assert list(workspace.directory.iterdir()) == []


UNLINKED = """
import os
held, total = [], 0
try:
    for n in range(50):
        held.append(os.open(f"f{n}", os.O_RDWR | os.O_CREAT))
        os.unlink(f"f{n}")
        for _ in range(8):
            total += os.write(held[-1], b"x" * (1 << 16))
except OSError:
    pass
total
"""


def test_files_without_a_name_count_as_well(workspace: Workspace) -> None:
    need("private folder")
    assert int(run(UNLINKED, workspace).said("value")) <= LIMITS.scratch_bytes


def test_files_without_a_name_are_seen_from_outside(tmp_path: Path) -> None:
    """What holds where there is no private folder."""
    with (tmp_path / "x").open("wb") as file:
        before = sandbox._nameless(os.getpid())
        file.write(b"x" * 5_000)
        file.flush()
        assert sandbox._nameless(os.getpid()) == before
        (tmp_path / "x").unlink()
        assert sandbox._nameless(os.getpid()) == before + 5_000


SIGNALS = """
import fcntl, os
read, write = os.pipe()
refused = 0
for command in (8, 10, 15, 1031):
    try:
        fcntl.fcntl(read, command, os.getppid())
    except PermissionError:
        refused += 1
refused
"""


def test_a_file_cannot_be_made_to_signal_others_or_to_hold_memory(workspace: Workspace) -> None:
    need("seccomp")
    assert run(SIGNALS, workspace).said("value") == "4"


FREEZING = """
import fcntl, os, socket
os.write(file := os.open("mine", os.O_CREAT | os.O_RDWR), b"x")
refused = []
for command in (0xC0045877, 0xC0185879, 0x40086602, 0x40049409, 0x8901, 0x5452, 0x5412, 0xB701):
    try:
        fcntl.ioctl(file, command, bytes(24))
    except OSError as error:
        refused.append(error.errno)
try:
    socket.socketpair()[0].setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 30)
except PermissionError:
    refused.append("buffer")
os.isatty(file), os.set_inheritable(file, True), refused
"""


def test_no_control_of_devices_and_file_systems_and_no_larger_buffers(workspace: Workspace) -> None:
    """FIFREEZE, FITRIM, FS_IOC_SETFLAGS, FICLONE, FIOSETOWN, FIOASYNC, TIOCSTI, NS_GET_USERNS."""
    need("seccomp")
    assert run(FREEZING, workspace).said("value") == f"(False, None, {[95] * 8 + ['buffer']})"


SYSCALL = """
import ctypes
libc = ctypes.CDLL(None, use_errno=True)
done = []
for number in {numbers}:
    if libc.syscall(number, 0, 0, 0, 0, 0, 0) != -1 or ctypes.get_errno() not in (1, 38):
        done.append(number)
done
"""
DANGEROUS = {
    "x86_64": [101, 141, 142, 144, 203, 251, 256, 279, 237, 238, 239, 310, 311, 314, 319, 425, 434, 438, 440, 447, 448, 450, 467],
    "aarch64": [117, 118, 119, 122, 140, 30, 92, 239, 235, 237, 270, 271, 274, 279, 425, 434, 438, 440, 447, 448, 450, 467],
}  # fmt: skip
"""ptrace, setpriority, sched_set*, ioprio_set, personality, move_pages, memory policy, process_vm_*, memfd*, io_uring,
pidfd_*, process_madvise, process_mrelease, and numbers that no kernel has yet."""


def test_system_calls_that_are_not_listed_are_not_there(workspace: Workspace) -> None:
    need("seccomp")
    numbers = DANGEROUS[platform.machine()]
    assert run(SYSCALL.format(numbers=numbers), workspace, ("audit hook",)).said("value") == "[]"


AROUND_THE_HOOK = {
    "ctypes": "import ctypes",
    "ctypes by its core": "import _ctypes",
    "ctypes left behind": "import sys; sys.modules['ctypes'].CDLL(None)",
    "the hook's own function": "import gc; gc.get_objects()",
    "who refers to it": "import gc; gc.get_referrers(open)",
    "another interpreter": "import _xxsubinterpreters",
    "import by another name": "__import__('_ctypes')",
    "importlib": "import importlib; importlib.import_module('ctypes')",
    "a patched path": "import os.path\nos.path.realpath = lambda p, **k: '/dev/null'\nopen('/etc/passwd')",
    "a patched builtin": "import builtins\nbuiltins.isinstance = lambda *a: True\nopen('/etc/passwd')",
    "a patched module": "import sys\nm = sys.modules['__main__']\nm._below = m.make_hook = None\nopen('/etc/passwd')",
    "a second hook": "import sys\nsys.addaudithook(lambda *a: None)\nopen('/etc/passwd')",
    "a patched helper": "import os.path\nos.path._joinrealpath = lambda *a: ('/dev/null', True)\nopen('/etc/passwd')",
    "a patched system call": "import os\nos.lstat = os.readlink = os.getcwd = lambda *a, **k: '/dev/null'\nopen('/etc/passwd')",
    "a text that lies": "class S(str):\n  __eq__ = lambda *a: True\n  startswith = __eq__\n  __hash__ = str.__hash__\nopen(S('/etc/passwd'))",
    "a path that lies": "import os\nclass P:\n  n = 0\n  def __fspath__(self):\n    self.n += 1\n    return '/etc/passwd' if self.n == 1 else 'mine'\nos.open(P(), 0)",
    "a thread": "import concurrent.futures as c\nc.ThreadPoolExecutor().submit(open, '/etc/passwd').result()",
    "a loaded extension": "import sqlite3; sqlite3.connect(':memory:').enable_load_extension(True)",
}


@pytest.mark.parametrize("code", AROUND_THE_HOOK.values(), ids=AROUND_THE_HOOK)
def test_ways_around_the_hook_are_closed(code: str, workspace: Workspace) -> None:
    outcome = run(f"{code}\nprint('escaped')", workspace, KERNEL)
    assert "escaped" not in outcome.printed
    assert outcome.said("error") or outcome.ended


def test_refusals_are_said_in_words(workspace: Workspace) -> None:
    assert (
        "the sandbox does not allow this: open '/etc/passwd', only files in the working directory"
        in answer("open('/etc/passwd')", workspace)
    )


def test_the_environment_is_empty(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "hunter2")
    shown = answer("import os; print(dict(os.environ), open('/dev/null').read())", workspace)
    assert "hunter2" not in shown
    assert "PATH" not in shown


@pytest.mark.parametrize(
    ("code", "says"),
    [
        ("x = [0] * (10**10 // 8)", "MemoryError"),
        ("x = 'a'\nwhile True:\n  x += x", "MemoryError"),
        ("while True:\n  print('x' * 100)", "printed more than 10000 bytes"),
        ("import os\nwhile True:\n  os.write(2, b'x' * 100)", "printed more than 10000 bytes"),
        ("import os\nfor fd in range(3, 64):\n  try:\n    while True: os.write(fd, b'x' * 999)\n  except OSError: pass", "printed more"),
        ("open('a', 'wb').write(b'x' * (2 << 20))", "File too large|No space left|wrote more than"),
        ("import time\nfor n in range(9):\n  open(str(n), 'wb').write(b'x' * (1 << 19))\ntime.sleep(60)", "No space left|wrote more than"),
        (f"import time\nfor n in range({MAX_FILES + 9}):\n  open(str(n), 'w').close()\ntime.sleep(60)", "No space left|wrote more than"),
        ("import faulthandler; faulthandler._sigsegv()", "crashed the interpreter \\(SIGSEGV\\)"),
        ("import sys\nsys.setrecursionlimit(10**9)\nf = lambda *a: f(*a)\nf(*range(9))", "Error|crashed|processor time"),
        ("import threading, time\nwhile True:\n  threading.Thread(target=time.sleep, args=(60,)).start()", "Error"),
    ],
)  # fmt: skip
def test_what_takes_too_much_is_ended(code: str, says: str, workspace: Workspace) -> None:
    outcome = run(code, workspace)
    shown = show_run(outcome)
    assert re.search(says, shown), shown[-500:]
    assert len(outcome.printed) <= LIMITS.output_bytes
    assert list(workspace.directory.iterdir()) == []


def test_what_goes_on_printing_while_nobody_reads_is_ended_all_the_same(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a busy machine much can be printed between the decision to end it and the end."""
    decide = sandbox._first_end

    async def late(*given: Any) -> str | None:
        ended = await decide(*given)
        await asyncio.sleep(0.3)
        return ended

    monkeypatch.setattr(sandbox, "_first_end", late)
    outcome = asyncio.run(asyncio.wait_for(run_python("while True:\n  print('x' * 1000)", workspace), 60))
    assert outcome.ended == "it printed more than 10000 bytes"


def quick(workspace: Workspace, *, wall_s: float = 20.0, cpu_s: int = 10) -> Workspace:
    return Workspace(workspace.directory, limits=Limits(wall_s=wall_s, cpu_s=cpu_s))


def test_time_is_limited_by_the_wall_and_by_the_processor(workspace: Workspace) -> None:
    asleep = answer("import time; time.sleep(60)", quick(workspace, wall_s=0.3))
    assert asleep == "The run was ended: it was still running after 0.3 s."
    ignoring = "import signal\nsignal.signal(signal.SIGXCPU, signal.SIG_IGN)\nwhile True: pass"
    assert "more than 1 s of processor time" in answer(ignoring, quick(workspace, cpu_s=1))


def test_the_time_of_the_code_begins_when_the_sandbox_is_closed(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a busy machine it took ten seconds to start, and a sandbox in good order was said to be none."""
    assert "audit hook" in asyncio.run(describe(quick(workspace, wall_s=0.001)))
    monkeypatch.setattr(sandbox, "START_S", 0.0)
    with pytest.raises(ToolError, match="could not be started: it had not begun after 0 s"):
        run("1", workspace)


def processes_in(folder: Path) -> list[int]:
    """Living processes whose working directory lies in ``folder``."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                where = str((entry / "cwd").readlink())
            except OSError:
                continue
            if where.startswith(str(folder)):
                found.append(int(entry.name))
    return found


FAMILY = """
import os, time
for _ in range(3):
    try:
        if os.fork() == 0:
            time.sleep(60)
    except OSError:
        pass
print('made', flush=True)
"""


@pytest.mark.parametrize("ending", ["", "time.sleep(60)", "os._exit(1)", "1/0"])
def test_nothing_is_left_running(ending: str, workspace: Workspace) -> None:
    """Even where neither the hook nor seccomp is in force, and the code has children."""
    outcome = run(FAMILY + ending, quick(workspace, wall_s=1.0), ("audit hook", *KERNEL))
    assert "made" in outcome.printed
    assert processes_in(workspace.directory) == []
    assert list(workspace.directory.iterdir()) == []


def test_cancelling_ends_the_process(workspace: Workspace) -> None:
    async def main() -> None:
        task = asyncio.ensure_future(run_python("import time; time.sleep(60)", workspace))
        while not processes_in(workspace.directory):
            await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
    assert processes_in(workspace.directory) == []
    assert list(workspace.directory.iterdir()) == []


def test_folders_nested_beyond_any_path_are_cleared_away(workspace: Workspace) -> None:
    answer("import os\nfor _ in range(3000):\n  os.mkdir('d'); os.chdir('d')", workspace)
    assert list(workspace.directory.iterdir()) == []


def test_runs_do_not_see_each_other(workspace: Workspace) -> None:
    async def main() -> list[str]:
        codes = [f"open('mine', 'x').write('{n}'); open('mine').read()" for n in range(6)]
        return [
            show_run(one) for one in await asyncio.gather(*(run_python(code, workspace) for code in codes))
        ]

    assert asyncio.run(main()) == [repr(str(n)) for n in range(6)]


def test_no_file_descriptor_is_lost(workspace: Workspace) -> None:
    answer("1", workspace)
    before = len(list(Path("/proc/self/fd").iterdir()))
    for code in "1", "1/0", "import os; os._exit(1)":
        answer(code, workspace)
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_describe_says_what_is_in_force(workspace: Workspace) -> None:
    said = asyncio.run(describe(workspace))
    assert "audit hook" in said
    assert "resource limits" in said
    closed = {"landlock", "seccomp"} <= layers_here()
    assert ("closed by the kernel" in said) == closed
    assert ("not a boundary" in said) != closed


@pytest.mark.parametrize(("program", "says"), [("/bin/false", "with code 1"), ("/no/python", "No such file")])
def test_a_sandbox_that_does_not_start_is_not_the_codes_fault(
    program: str, says: str, workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", program)
    with pytest.raises(ToolError, match=f"the sandbox could not be started: .*{says}"):
        run("1", workspace)
    assert list(workspace.directory.iterdir()) == []


def test_code_runs_after_everything_else(workspace: Workspace) -> None:
    nice = int(answer("import os; os.getpriority(os.PRIO_PROCESS, 0)", workspace))
    assert nice == min(19, os.nice(0) + sandbox.confine.NICENESS)


def test_code_that_is_too_long_is_refused(workspace: Workspace) -> None:
    with pytest.raises(ToolError, match="longer than 50000 characters"):
        run("#" * 50_001, workspace)


ADD = "def add(a, b):\n    return a + b\n"
TESTS = "assert add(1, 2) == 3\nassert add(2, 2) == 5\ndef test_zero():\n    assert add(0, 0) == 0\nassert add(1) == 1, 'one'\n"


def check(code: str, tests: str, workspace: Workspace) -> CodeVerdict:
    return asyncio.run(check_code(code, tests, workspace))


def test_every_test_has_its_verdict(workspace: Workspace) -> None:
    verdict = check(ADD, TESTS, workspace)
    assert verdict.passed == ("assert add(1, 2) == 3", "test_zero()")
    assert [text for text, _ in verdict.failed] == ["assert add(2, 2) == 5", "assert add(1) == 1, 'one'"]
    assert verdict.failed[0][1] == "the left side is 4"
    assert "TypeError" in verdict.failed[1][1]
    assert not verdict.good
    assert show_verdict(verdict).startswith(
        "2 of 4 tests passed.\nfailed: assert add(2, 2) == 5 (the left side is 4)"
    )


@pytest.mark.parametrize(
    ("code", "error"),
    [
        ("1/0", "ZeroDivisionError"),
        ("def add(:", "SyntaxError"),
        ("def add(a, b):\n  while True: pass", "still running"),
        ("import os\ndef add(a, b):\n  os._exit(0)", None),
        ("import sys\ndef add(a, b):\n  sys.exit(0)", None),
        (
            "class Same:\n  def __eq__(self, other): raise KeyboardInterrupt\ndef add(a, b): return Same()",
            None,
        ),
    ],
)
def test_code_that_does_not_get_there_passes_nothing(
    code: str, error: str | None, workspace: Workspace
) -> None:
    verdict = check(code, "assert add(1, 2) == 3\nassert add(0, 0) == 0", quick(workspace, wall_s=2.0))
    assert verdict.passed == ()
    assert not verdict.good
    if error is not None:
        assert error in (verdict.error or "")


def test_what_was_passed_before_a_hang_counts(workspace: Workspace) -> None:
    code = "def add(a, b):\n  while a == 7: pass\n  return a + b"
    verdict = check(
        code,
        "assert add(1, 2) == 3\nassert add(7, 2) == 9\nassert add(1, 1) == 2",
        quick(workspace, wall_s=1.0),
    )
    assert verdict.passed == ("assert add(1, 2) == 3",)
    assert [why for _, why in verdict.failed] == ["was not reached"] * 2
    assert "still running" in (verdict.error or "")


def test_good_code_is_good_and_no_tests_are_not(workspace: Workspace) -> None:
    assert check(ADD, "assert add(1, 2) == 3", workspace).good
    empty = check(ADD, "", workspace)
    assert not empty.good
    assert show_verdict(empty) == "There are no tests."


@pytest.mark.parametrize("tests", ["assert (", "import nothing_here\nassert add(1, 2) == 3"])
def test_broken_tests_are_the_testers_fault(tests: str, workspace: Workspace) -> None:
    with pytest.raises(ToolError, match="the tests cannot be run"):
        check(ADD, tests, workspace)


def test_as_tools(workspace: Workspace) -> None:
    python, run_tests = build_tools(["python", "run_tests"], workspace)
    assert asyncio.run(run_tool(python, {"code": "sum(range(5))"})).text == "10"
    assert asyncio.run(run_tool(run_tests, {"code": ADD, "tests": "assert add(1, 1) == 2"})).text == (
        "1 of 1 tests passed."
    )
    assert sys.executable not in python.description
