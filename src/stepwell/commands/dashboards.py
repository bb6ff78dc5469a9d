"""``stepwell dashboards``: boards for Grafana and alerts for Prometheus, as files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from stepwell.console.options import flag
from stepwell.dashboards.alerts import ALERTS
from stepwell.dashboards.boards import BOARDS
from stepwell.dashboards.export import write
from stepwell.errors import BadInput


def export(
    directory: Annotated[Path, Parameter(help="The folder for all files.")],
    *,
    json_output: Annotated[bool, flag("Say as JSON what was written.", "--json")] = False,
) -> None:
    """Write the boards, the alerts, and a compose file that starts Prometheus and Grafana with them.

    DIRECTORY is made where it is not there; files of the same names are replaced. Prometheus needs an
    operator's key where the server has keys (or public_metrics). Example:

        stepwell dashboards export deploy
        docker compose -f deploy/compose.yml up
    """
    try:
        written = write(directory)
    except OSError as error:
        raise BadInput(f"{directory} cannot be written: {error.strerror}") from error
    names = [str(path) for path in written]
    if json_output:
        print(json.dumps({"boards": [board.uid for board in BOARDS], "files": names}))
        return
    for name in names:
        print(name)
    print(f"{len(BOARDS)} boards and {len(ALERTS)} alerts are in {directory}.")
