"""A build hook of hatchling, off unless it is asked for: a wheel whose policy is compiled by mypyc.

HATCH_BUILD_HOOK_ENABLE_CUSTOM=1 pip wheel --no-deps .
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class CompiledPolicy(BuildHookInterface):
    """Adds the compiled modules beside the sources, which stay in the wheel."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        root = Path(self.root)
        sys.path.insert(0, str(root / "scripts"))
        from compile_policy import compile_policy

        target = compile_policy(root, root / "build" / "policy-compiled", "3")
        for file in sorted([*target.glob("*.so"), *(target / "stepwell" / "policy").rglob("*.so")]):
            build_data["force_include"][str(file)] = file.relative_to(target).as_posix()
        build_data["pure_python"] = False
        build_data["infer_tag"] = True
