"""``stepwell library add | list | rm | search``: documents for agents, here or on a server."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter
from rich.console import Console
from rich.markup import escape
from rich.progress import Progress
from rich.table import Table

from stepwell.basics.units import format_size
from stepwell.commands.library.places import LibraryPlace, RemotePlace, local_place
from stepwell.console.options import ResultOption
from stepwell.console.output import write_json
from stepwell.errors import BadInput, StepwellError


@Parameter(name="*")
@dataclass(frozen=True, slots=True)
class Where:
    """Which library is meant."""

    server: Annotated[str | None, Parameter(help="A server's URL, such as http://127.0.0.1:8000.")] = None
    key: Annotated[str | None, Parameter(env_var="OPENAI_API_KEY", help="The API key for it.")] = None
    dir: Annotated[Path | None, Parameter(help="A library's directory. Default: as for 'serve'.")] = None
    config: Annotated[Path | None, Parameter(help="The settings file of the server it belongs to.")] = None
    tenant: Annotated[str, Parameter(help="The tenant whose documents are meant, in a directory.")] = "local"

    def place(self) -> LibraryPlace:
        """Raises ``BadInput``."""
        if self.server is None:
            return local_place(self.dir, self.config, self.tenant)
        if self.dir is not None or self.config is not None or self.tenant != "local":
            raise BadInput("--server asks a server: --dir, --config and --tenant are for a library here")
        return RemotePlace(self.server, self.key)


HERE = Where()


def add(
    files: Annotated[list[Path], Parameter(help="Documents to add.")],
    /,
    *,
    where: Where = HERE,
    json_file: ResultOption = None,
) -> int:
    """Add documents: text, Markdown, HTML, PDF, CSV or Parquet.

    Each is read once and kept as it is, with its text. Agents attach it by its id. What cannot be read is
    named with the reason, and the others are added all the same. Example:

        stepwell library add report.pdf notes.md
        stepwell library add report.pdf --server http://127.0.0.1:8000

    Exit code 0: all were added; 1: some were not.
    """
    if not files:
        raise BadInput("name at least one file, as in  stepwell library add report.pdf")
    console, place = result_console(json_file), where.place()
    added: list[dict[str, Any]] = []
    failed = 0
    with Progress(console=Console(stderr=True), transient=True) as progress:
        for path in progress.track(files, description="adding"):
            try:
                added.append(place.add(path))
                console.print(file_line(added[-1]), markup=False, highlight=False)
            except StepwellError as error:
                failed += 1
                print(f"stepwell: {error}", file=sys.stderr)
    lost = f"; {failed} could not be added" if failed else ""
    console.print(f"{len(added)} of {len(files)} documents added{lost}.", markup=False)
    write_json(json_file, {"files": added, "failed": failed})
    return 1 if failed else 0


def list_(*, where: Where = HERE, json_file: ResultOption = None) -> None:
    """List the documents, newest first. Example: ``stepwell library list``"""
    files = where.place().files()
    table = Table(box=None, pad_edge=False)
    table.add_column("id", no_wrap=True, min_width=29)  # it is there to be copied
    for title in ("name", "kind", "size", "tokens", "added (UTC)"):
        table.add_column(title, justify="right" if title in ("size", "tokens") else "left")
    for file in files:
        tokens = f"{file['tokens']:,}" if file["tokens"] is not None else "-"
        added = datetime.fromtimestamp(file["created_at"], UTC).strftime("%Y-%m-%d %H:%M")
        table.add_row(
            file["id"], escape(file["filename"]), file["kind"], format_size(file["bytes"]), tokens, added
        )
    console = result_console(json_file)
    if files:
        console.print(table, markup=False)
    total = format_size(sum(file["bytes"] for file in files))
    console.print(f"{len(files)} documents, {total}.", markup=False, highlight=False)
    write_json(json_file, {"files": files})


def rm(
    ids: Annotated[list[str], Parameter(help="Their ids, as 'stepwell library list' shows them.")],
    /,
    *,
    where: Where = HERE,
    json_file: ResultOption = None,
) -> int:
    """Remove documents. Example: ``stepwell library rm file-0123456789abcdef01234567``

    Exit code 0: all are gone; 1: some were not there.
    """
    if not ids:
        raise BadInput("name at least one id; 'stepwell library list' shows them")
    place, gone = where.place(), list[str]()
    for file_id in dict.fromkeys(ids):
        try:
            place.remove(file_id)
            gone.append(file_id)
        except StepwellError as error:
            print(f"stepwell: {error}", file=sys.stderr)
    result_console(json_file).print(f"{len(gone)} documents removed.", markup=False)
    write_json(json_file, {"removed": gone})
    return 0 if len(gone) == len(set(ids)) else 1


def search(
    question: Annotated[str, Parameter(help="What the passages are to be about.")],
    /,
    *,
    files: Annotated[
        Sequence[str], Parameter(name="--file", help="Search this id alone (repeat for more).")
    ] = (),
    results: Annotated[int, Parameter(help="Most passages, 1 to 50.")] = 5,
    where: Where = HERE,
    json_file: ResultOption = None,
) -> None:
    """Find the passages nearest to a question: by its words, and by its meaning where embeddings are set.

    Example: ``stepwell library search "how deep is the well" --results 3``
    """
    if not question.strip() or not 1 <= results <= 50:
        raise BadInput("give a question of at least one word, and --results between 1 and 50")
    found = where.place().search(question, results, list(files) or None)
    console = result_console(json_file)
    for hit in found:
        head = f"{hit['filename']}  {hit['file_id']}  {hit['start']}-{hit['end']}  score {hit['score']:.3g}"
        console.print(head, style="bold", markup=False, highlight=False)
        console.print(" ".join(hit["content"][0]["text"].split()) + "\n", markup=False, highlight=False)
    console.print(f"{len(found)} passages." if found else "No passage shares a word with the question.")
    write_json(json_file, {"data": found})


def file_line(file: dict[str, Any]) -> str:
    """A file object in a line."""
    note = f" ({file['status_details']})" if file["status_details"] else ""
    return f"{file['id']}  {file['filename']}  {format_size(file['bytes'])}{note}"


def result_console(json_file: Path | None) -> Console:
    """The result's own place; words go to standard error where standard output is for JSON."""
    return Console(stderr=json_file == Path("-"), soft_wrap=True)
