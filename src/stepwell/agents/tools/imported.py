"""Tools that are Python functions of the person's own.

Named ``python:FILE.py:FUNCTION`` or ``python:PACKAGE.MODULE:FUNCTION``. They run in this process
with all of the person's rights. Only a crew's file names them, never a model.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from pathlib import Path
from types import ModuleType

from stepwell.agents.tools.base import Tool
from stepwell.agents.tools.functions import from_function
from stepwell.agents.tools.workspace import Workspace
from stepwell.errors import BadInput

PYTHON_PREFIX = "python:"


def imported_tool(name: str, workspace: Workspace) -> Tool:
    """The function, or the ``Tool`` that a decorator made of it. ``BadInput`` with one sentence."""
    where, _, function = name.removeprefix(PYTHON_PREFIX).rpartition(":")
    if not where or not function.isidentifier():
        raise BadInput(f"{name}: write python:FILE.py:FUNCTION or python:PACKAGE.MODULE:FUNCTION")
    found = getattr(_module(name, where, workspace), function, None)
    if isinstance(found, Tool):
        return found
    if not callable(found) or isinstance(found, type):
        raise BadInput(f"{name}: {where} has no function {function}")
    return from_function(found)


def _module(name: str, where: str, workspace: Workspace) -> ModuleType:
    """Imported once for all agents of a run, so that they share what it keeps."""
    key = f"{PYTHON_PREFIX}{where}"
    kept = workspace.shared.get(key)
    if not isinstance(kept, ModuleType):
        try:
            kept = _load(where, workspace.folder) if where.endswith(".py") else importlib.import_module(where)
        except BadInput:
            raise
        except (Exception, SystemExit) as error:
            said = " ".join(str(error).split()) or "no reason given"
            raise BadInput(
                f"{name}: {where} cannot be imported: {type(error).__name__}: {said[:300]}"
            ) from error
        workspace.shared[key] = kept
    return kept


def _load(where: str, folder: Path | None) -> ModuleType:
    path = (folder or Path.cwd()) / where
    if not path.is_file():
        raise BadInput(f"{path} does not exist: functions are looked for from the folder of the crew's file")
    spec = importlib.util.spec_from_file_location(f"stepwell_crew_{path.stem}", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    # Annotations are looked up through the module's name.
    sys.modules[module.__name__] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[module.__name__]
        raise
    return module
