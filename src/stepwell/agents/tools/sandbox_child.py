"""The program that runs a model's code: it locks itself in first, and reports on a pipe.

Started by ``sandbox`` as ``python -I -S -B sandbox_child.py``, with one JSON object on its stdin; it
imports the standard library and its neighbours ``confine`` and ``syscalls`` only. Never called from this
process.
"""

from __future__ import annotations

import ast
import builtins
import importlib.util
import json
import os
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from types import CodeType, ModuleType, SimpleNamespace
from typing import Any

NAME = "<code>"
TESTS = "<tests>"
VALUE_CHARS = 20_000
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
_REFUSED_PREFIXES = (
    "subprocess.",
    "ctypes.",
    "pty.",
    "syslog.",
    "socket.",
    "ftplib.",
    "smtplib.",
    "webbrowser.",
)
_REFUSED_EVENTS = {
    "os.system", "os.exec", "os.fork", "os.forkpty", "os.posix_spawn", "os.spawn", "os.startfile", "os.kill",
    "os.killpg", "os.chown", "os.chroot", "os.unshare", "os.setns", "os.setxattr", "os.removexattr",
    "signal.pthread_kill", "sys.remote_exec", "resource.setrlimit", "resource.prlimit", "gc.get_objects",
    "gc.get_referrers", "gc.get_referents", "sqlite3.enable_load_extension", "sqlite3.load_extension",
    "cpython.remote_debugger_script", "cpython._PySys_ClearAuditHooks",
}  # fmt: skip
_REFUSED_IMPORTS = {
    "ctypes", "_ctypes", "_ctypes_test", "_testcapi", "_testinternalcapi", "_xxsubinterpreters",
    "_interpreters", "_testlimitedcapi", "_xxinterpchannels",
}  # fmt: skip
_PATHS = {
    "os.listdir": 1, "os.scandir": 1, "os.chdir": 1, "os.mkdir": 1, "os.remove": 1, "os.rmdir": 1,
    "os.truncate": 1, "os.utime": 1, "os.chmod": 1, "os.chflags": 1, "os.rename": 2, "os.link": 2,
    "shutil.rmtree": 1, "sqlite3.connect": 1, "os.mkfifo": 1, "os.mknod": 1,
}  # fmt: skip
"""How many of an event's first arguments are paths."""
_ONLY_READING = {"os.listdir", "os.scandir"}
AF_UNIX = 1


def readable_paths() -> list[str]:
    """The standard library, and what the C library loads for its modules."""
    library = Path(os.__file__).resolve().parent
    system = (
        "/lib",
        "/lib64",
        "/usr/lib",
        "/usr/lib64",
        "/etc/ld.so.cache",
        "/etc/localtime",
        "/dev/urandom",
    )
    return [str(library), *{os.path.realpath(path) for path in (*system, "/usr/share/zoneinfo")}]


def make_hook(readable: list[str], scratch: str) -> Callable[[str, tuple[Any, ...]], None]:
    """The audit hook: refuses by name what the kernel layers refuse by effect, where they are in force.

    Everything that it uses is bound here, so that the code cannot reach it by changing a module's names.
    """
    isinstance_, int_, any_path = isinstance, int, _below()
    prefixes, events, imports, paths = _REFUSED_PREFIXES, _REFUSED_EVENTS, _REFUSED_IMPORTS, dict(_PATHS)
    writable, may_read, writing, only_reading = (scratch,), (*readable, scratch), _WRITING, _ONLY_READING

    def reason(event: str, args: tuple[Any, ...]) -> str | None:
        if event == "open":
            roots = writable if isinstance_(args[2], int_) and args[2] & writing else may_read
            return (
                None
                if any_path(args[:1], roots)
                else f"open {args[0]!r}, only files in the working directory"
            )
        if event in paths:
            roots = may_read if event in only_reading else writable
            return None if any_path(args[: paths[event]], roots) else f"{event} outside the working directory"
        if event == "import":
            return f"import {args[0]}" if args[0] in imports else None
        if event == "socket.__new__" and args[1] == AF_UNIX:
            return None  # asyncio's own pair; connecting one anywhere is refused
        return event if event in events or event.startswith(prefixes) else None

    def hook(event: str, args: tuple[Any, ...]) -> None:
        why = reason(event, args)
        if why is not None:
            raise PermissionError(f"the sandbox does not allow this: {why}")

    return hook


def _below() -> Callable[[tuple[Any, ...], tuple[str, ...]], bool]:
    realpath, isinstance_, every, some, int_ = _private_realpath(), isinstance, all, any, int
    bytes_, fspath, plain, decode = bytes, os.fspath, str.__str__, bytes.decode

    def one(path: Any, roots: tuple[str, ...]) -> bool:
        if path is None or isinstance_(path, int_):
            return True  # the working directory; a file that is open already
        given = fspath(path)
        # A subclass of str may say of itself that it equals anything.
        text = decode(given, "utf-8", "surrogateescape") if isinstance_(given, bytes_) else plain(given)
        real = realpath(text)
        inside = some(real == root or real.startswith(root + "/") for root in roots)
        return inside or text == ":memory:" or real == "/dev/null"

    return lambda paths, roots: every(one(path, roots) for path in paths)


def _private_realpath() -> Callable[[str], str]:
    """``os.path.realpath`` of a module of its own: one that the code cannot reach, and so cannot patch."""
    spec = importlib.util.spec_from_file_location("private", os.path.__file__)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    module.__dict__["__builtins__"] = dict(vars(builtins))
    spec.loader.exec_module(module)
    module.__dict__["os"] = SimpleNamespace(**vars(os))
    realpath: Callable[[str], str] = module.realpath
    return realpath


_WITHOUT_SECCOMP = (
    "setpriority", "nice", "memfd_create", "pidfd_open", "sched_setaffinity", "sched_setparam",
    "sched_setscheduler", "setpgid", "setsid",
)  # fmt: skip
"""What no audit event is raised for."""


def load_neighbour(file: str) -> ModuleType:
    """By its file, not by its name: nothing of the package may be importable here."""
    spec = importlib.util.spec_from_file_location(Path(file).stem, file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def lock_in(job: dict[str, Any]) -> list[str]:
    """All layers that this system allows, and their names."""
    confine, syscalls = load_neighbour(job["confine"]), load_neighbour(job["syscalls"])
    readable, scratch = readable_paths(), job["scratch"]
    confine.die_with_parent()
    confine.limit_resources(job["cpu_s"], job["memory_bytes"], job["file_bytes"])
    asked = {
        "network namespace": confine.leave_network,
        "private folder": lambda: confine.private_folder(scratch, job["file_bytes"], job["files"]),
        # Again after the namespaces: a process that changes its rights is no longer told of its parent's end.
        "ends with its parent": confine.die_with_parent,
        "landlock": lambda: confine.restrict_paths(readable, scratch),
        "seccomp": lambda: _enter(scratch) and syscalls.filter_syscalls(),
    }
    layers = ["resource limits"]
    layers += [name for name, ask in asked.items() if name not in job["without"] and ask()]
    _enter(scratch)
    if "seccomp" not in layers:
        confine.forbid_processes()
        _forget(_WITHOUT_SECCOMP)
    for name in [name for name in sys.modules if name.partition(".")[0] in _REFUSED_IMPORTS]:
        del sys.modules[name]
    layers = [name for name in layers if name != "ends with its parent"]
    if "audit hook" in job["without"]:
        return layers
    sys.addaudithook(make_hook(readable, scratch))
    return [*layers, "audit hook"]


def _enter(scratch: str) -> bool:
    """Into the folder as it is now: a file system may have been mounted on it."""
    os.chdir(scratch)
    return True


def _forget(names: tuple[str, ...]) -> None:
    for module in (os, sys.modules["posix"]):
        for name in names:
            if hasattr(module, name):
                delattr(module, name)


def compiled(source: str) -> tuple[CodeType, CodeType | None]:
    """The statements, and the last one apart when it is an expression, as a prompt would show it."""
    tree = ast.parse(source, NAME)
    if not tree.body or not isinstance(last := tree.body[-1], ast.Expr):
        return compile(tree, NAME, "exec"), None
    tree.body.pop()
    return compile(tree, NAME, "exec"), compile(ast.Expression(last.value), NAME, "eval")


def run_code(source: str, names: dict[str, Any]) -> dict[str, Any]:
    """``value`` of the last expression, or ``error`` in one line."""
    try:
        body, last = compiled(source)
        exec(body, names)
        value = None if last is None else eval(last, names)
        join_threads()
        return {"value": None if value is None else repr(value)[:VALUE_CHARS]}
    except SystemExit as error:
        return {"value": None, "exit": str(error.code)}
    except BaseException as error:  # noqa: BLE001 - whatever the code raises is its result
        return {"error": sentence(error, source)}


def join_threads() -> None:
    """As the interpreter does at its end: what they still print belongs to the run."""
    for thread in threading.enumerate():
        if thread is not threading.main_thread() and not thread.daemon:
            thread.join()


def sentence(error: BaseException, source: str) -> str:
    """Class, message and the line of the code, without the frames of this program."""
    try:
        message = error.msg if isinstance(error, SyntaxError) else str(error)
        text = " ".join(f"{type(error).__name__}: {message}".split())[:2_000].rstrip(":")
    except Exception:  # noqa: BLE001 - an exception of the code's own may not even have a text
        text = type(error).__name__
    if isinstance(error, SyntaxError):
        line = error.lineno
    else:
        frames = traceback.extract_tb(error.__traceback__)
        line = next((frame.lineno for frame in reversed(frames) if frame.filename == NAME), None)
    lines = source.splitlines()
    if line is None or not 1 <= line <= len(lines):
        return text
    return f"{text} (line {line}: {lines[line - 1].strip()[:200]})"


def test_items(tests: str) -> Iterator[tuple[str, str, ast.stmt]]:
    """What to run, in order: ``(kind, text, statement)`` with the kinds setup, assert and function."""
    for node in ast.parse(tests, TESTS).body:
        text = ast.get_source_segment(tests, node) or ""
        yield "assert" if isinstance(node, ast.Assert) else "setup", text, node
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test") and not node.args.args:
            call = ast.parse(f"{node.name}()", TESTS).body[0]
            yield "function", f"{node.name}()", call


def run_test(node: ast.stmt, names: dict[str, Any]) -> str | None:
    """None when it passes, else why not."""
    try:
        exec(compile(ast.Module([node], []), TESTS, "exec"), names)
    except AssertionError as error:
        return str(error) or compared(node, names)
    except BaseException as error:  # noqa: BLE001 - SystemExit too is a test that did not pass
        return sentence(error, "")
    return None


def compared(node: ast.stmt, names: dict[str, Any]) -> str:
    """What stood on the left of a plain comparison that failed: computed once more, to be shown."""
    if isinstance(node, ast.Assert) and isinstance(test := node.test, ast.Compare) and len(test.ops) == 1:
        try:
            left = eval(compile(ast.Expression(test.left), TESTS, "eval"), names)
            return f"the left side is {repr(left)[:500]}"
        except BaseException:  # noqa: BLE001 - it did not fail the first time: the code is not deterministic
            return "it does not hold"
    return "it does not hold"


def run_tests(job: dict[str, Any], say: Callable[[dict[str, Any]], None]) -> None:
    """Reports every test as it ends, so that one that hangs takes no verdict of another with it."""
    try:
        items = list(test_items(job["tests"]))
    except (SyntaxError, ValueError) as error:
        say({"tests_error": sentence(error, job["tests"])})
        return
    say({"planned": [text for kind, text, _ in items if kind != "setup"]})
    names: dict[str, Any] = {"__name__": "code"}
    outcome = run_code(job["code"], names)
    say({"error": outcome.get("error")})
    if "error" in outcome:
        return
    for kind, text, node in items:
        why = run_test(node, names)
        if kind != "setup":
            say({"test": text, "why": why})
        elif why is not None:
            say({"tests_error": f"{text[:200]}: {why}"})
            return


def main() -> None:
    """Reads the job, locks itself in, runs the code, reports, and ends without any farewell."""
    job = json.loads(sys.stdin.buffer.read())
    sys.stdin = open(os.devnull, encoding="utf-8")  # noqa: SIM115, PTH123 - it stays open
    os.dup2(sys.stdin.fileno(), 0)
    sys.stdout.reconfigure(errors="backslashreplace", line_buffering=True)  # type: ignore[union-attr]
    report, key, write, dumps, stdout = job["report"], job["key"], os.write, json.dumps, sys.stdout

    def say(what: dict[str, Any]) -> None:
        text = memoryview(dumps({"key": key, **what}).encode() + b"\n")
        while text:
            text = text[write(report, text) :]

    say({"layers": lock_in(job)})
    if job.get("tests") is None:
        say(run_code(job["code"], {"__name__": "__main__"}))
    else:
        run_tests(job, say)
    try:
        stdout.flush()
    finally:
        os._exit(0)


if __name__ == "__main__":
    main()
