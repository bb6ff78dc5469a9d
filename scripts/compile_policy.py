"""Compile ``src/stepwell/policy`` by mypyc, from the same sources: an option, which nothing else needs.

    python scripts/compile_policy.py            # into build/policy-compiled; put that first on PYTHONPATH
    HATCH_BUILD_HOOK_ENABLE_CUSTOM=1 pip wheel --no-deps .      # a wheel with the compiled policy in it

Needs mypy and a C compiler. What comes out decides the same (tests/policy/test_compiled.py) in about two
thirds of the time (docs/adr/0031-compiled-policy.md).
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import sysconfig
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TARGET = ROOT / "build" / "policy-compiled"
PLAIN = {"CFLAGS": "-g0"}
LINKED = {"CFLAGS": "-g0 -fvisibility=hidden -fno-semantic-interposition -flto=1", "LDFLAGS": "-flto=1 -O3"}
"""Calls between the modules are direct, or inlined when they are linked: a twentieth less time for a step.
These are GCC's words; a compiler that does not know them compiles plainly."""
SETUP = """\
from setuptools import setup
from mypyc.build import mypycify
setup(name="stepwell-policy", ext_modules=mypycify({arguments!r}, opt_level={level!r}, multi_file=True))
"""


def is_current(sources: Path, compiled: Path) -> bool:
    """Whether every source is the one that was compiled, for the Python that runs."""
    modules = sorted(file.relative_to(sources) for file in sources.rglob("*.py"))
    suffix = sysconfig.get_config_var("EXT_SUFFIX")
    return all(
        (compiled / module).is_file()
        and (compiled / module).read_bytes() == (sources / module).read_bytes()
        and (compiled / module).with_suffix("").with_suffix(suffix).is_file()
        for module in modules
    )


def compile_policy(root: Path, target: Path, level: str) -> Path:
    """A tree with the whole package in it: the compiled policy, and links to all other rooms. Returns it.
    One that is there already, of these sources and for this Python, is left as it is.

    ``SystemExit`` with one sentence where there is no compiler, or when it fails.
    """
    if is_current(root / "src" / "stepwell" / "policy", target / "stepwell" / "policy"):
        return target
    if not any(shutil.which(name) for name in (os.environ.get("CC", "cc"), "gcc", "clang")):
        raise SystemExit("compile_policy: there is no C compiler here; the policy runs without one as well")
    package = root / "src" / "stepwell"
    shutil.rmtree(target, ignore_errors=True)
    (target / "stepwell").mkdir(parents=True)
    for entry in sorted(package.iterdir()):
        if entry.name not in ("policy", "__pycache__"):
            (target / "stepwell" / entry.name).symlink_to(entry)
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(package / "policy", target / "stepwell" / "policy", ignore=ignored)
    sources = [
        file.relative_to(target).as_posix() for file in sorted((target / "stepwell/policy").rglob("*.py"))
    ]
    setup = target / "setup.py"
    arguments = ["--config-file=", "--follow-imports=silent", "--python-version=3.11", *sources]
    setup.write_text(SETUP.format(arguments=arguments, level=level), encoding="utf-8")
    command = [sys.executable, "setup.py", "-q", "build_ext", "--inplace"]
    for flags in (LINKED, PLAIN):
        env = {**flags, **os.environ}
        run = subprocess.run(command, cwd=target, env=env, capture_output=True, text=True, check=False)
        if not run.returncode:
            break
        shutil.rmtree(target / "build", ignore_errors=True)
    else:
        last = (run.stderr or run.stdout).strip().splitlines()[-12:]
        raise SystemExit("compile_policy: the compilation failed:\n" + "\n".join(last))
    shutil.rmtree(target / "build", ignore_errors=True)
    setup.unlink()
    return target


def main() -> None:
    parser = argparse.ArgumentParser(description="Compile src/stepwell/policy by mypyc.")
    parser.add_argument("--target", type=Path, default=TARGET, help="where (default: build/policy-compiled)")
    parser.add_argument("--level", default="3", choices="0123", help="of optimisation (default: 3)")
    given = parser.parse_args()
    began = time.monotonic()
    target = compile_policy(ROOT, given.target, given.level)
    count = sum(1 for _ in target.rglob("*.so"))
    sys.stdout.write(f"compiled: {count} modules in {time.monotonic() - began:.0f} s; PYTHONPATH={target}\n")


if __name__ == "__main__":
    main()
