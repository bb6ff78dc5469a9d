"""``stepwell ledger ...`` as it is typed."""

from __future__ import annotations

import csv
import io
import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest
from pypdf import PdfReader
from tests.ledger.made_books import START_S, Books, Writer, agent, gave, made_books, used

from stepwell import cli
from stepwell.basics.per_tier import PerTier
from stepwell.ledger.pricing.books import preset_names
from stepwell.ledger.pricing.costs import load_cost_book
from stepwell.ledger.stores.sqlite import SqliteStore
from stepwell.ledger.types import Resource
from stepwell.server.callers.keys import KeyEntry

Capture = pytest.CaptureFixture[str]


@pytest.fixture
def books(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Books:
    """Where a command looks without being told."""
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    monkeypatch.setenv("COLUMNS", "80")
    (tmp_path / "stepwell").mkdir()
    made = made_books(tmp_path / "stepwell")
    made.store.close()
    return made


def run(*tokens: str) -> int:
    return cli.run(["ledger", *tokens])


def shown(capsys: Capture, *tokens: str) -> str:
    assert run(*tokens) == 0
    return capsys.readouterr().out


def as_json(capsys: Capture, *tokens: str) -> Any:
    return json.loads(shown(capsys, *tokens, "--json", "-"))


def test_statement(books: Books, capsys: Capture) -> None:
    text = shown(capsys, "statement", "--by", "tenant,agent")
    assert "acme/search s2" in text
    assert "6 requests, 2,044 tokens in and 521 out: 0.013448 USD" in text
    found = as_json(capsys, "statement", "--by", "tenant,model", "--since", "2026-11-23")
    assert [row["tenant"] for row in found["rows"]] == ["acme/search"]
    assert (found["rows"][0]["model"], found["since"], found["until"]) == ("tiny", "2026-11-23", None)
    assert found["total"]["charge_microusd"] == 670


def test_margin(books: Books, capsys: Capture) -> None:
    text = shown(capsys, "margin")
    assert "(idle)" in text
    assert "flex         priority           0.650 0.000325" in text
    assert "revenue 0.013448 USD - bill 0.013772 (60.6 % of it used by agents) = -0.000324 USD" in text
    found = as_json(capsys, "margin", "--by", "tenant,role", "--loaded")
    assert found["bill_microusd"] == 13_772
    assert sum(found["machine"]["idle"].values()) == 0
    alone = shown(capsys, "margin", "--tenant", "rival", "--by", "role")
    assert "(idle)" not in alone
    assert "revenue 0.000777 USD - cost 0.001651 = -0.000874 USD" in alone


def test_another_cost_book(books: Books, capsys: Capture, tmp_path: Path) -> None:
    book = tmp_path / "free.toml"
    book.write_text("[accelerator]\nhourly_usd = 0\n", "utf-8")
    assert as_json(capsys, "margin", "--cost-book", str(book))["bill_microusd"] == 0
    assert run("margin", "--cost-book", "no-such-book") == 2
    assert "no-such-book" in capsys.readouterr().err


def test_top(books: Books, capsys: Capture) -> None:
    assert "Most loss: acme/search / s2" in shown(capsys, "top", "--by", "loss", "--of", "session")
    found = as_json(capsys, "top", "--by", "intermediate", "--limit", "1")
    assert [(line["tenant"], line["agent"]) for line in found["lines"]] == [("acme", "s1/reader")]
    assert "Most cost: none" in shown(capsys, "top", "--until", "2020-01-01")


@pytest.mark.parametrize("width", [30, 60, 80, 200])
@pytest.mark.parametrize("command", ["statement", "margin", "top"])
def test_no_figure_is_cut_at_any_width(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture, command: str, width: int
) -> None:
    monkeypatch.setenv("COLUMNS", f"{width}")
    store = SqliteStore(tmp_path / "ledger.db")
    account = agent("acme", "session", "a-reader-with-a-long-name")
    writer = Writer.begin(store, "one")
    writer.settle(used(account, 1, 1, 999_999, input_tokens=123_456, visible_tokens=10**5))
    writer.write([gave(account, Resource.COMPUTE, 10**13)])
    store.close()
    text = shown(capsys, command, "--ledger", str(tmp_path / "ledger.db"))
    assert not re.search(r"\d…|\.…|-…", text)
    assert "0.999999" in text


@pytest.mark.parametrize("command", ["statement", "margin", "top"])
def test_tables_fit_eighty_columns_whatever_names_are_like(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture, command: str
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    path = tmp_path / "ledger.db"
    store = SqliteStore(path)
    account = agent("tenant-" * 30, "session-" * 30, "[red]agent[/red]\x1b[31m" * 9 + "tail", role="r" * 200)
    usage = used(
        account, 1, 1, 123_456_789_000, input_tokens=10**10, visible_tokens=10**7, intermediate_tokens=1
    )
    writer = Writer.begin(store, "one")
    writer.settle(usage)
    writer.write([gave(account, Resource.COMPUTE, 10**15)])
    store.close()
    text = shown(capsys, command, "--ledger", str(path), *(["--by", "agent"] if command != "top" else []))
    table = text.partition("\n\n")[0]
    assert max(map(len, table.splitlines())) <= 80
    assert "tail" in table
    assert "\x1b" not in text
    assert "123,456" in table


def test_verify(books: Books, capsys: Capture) -> None:
    assert "The books are right: 39 postings, 16 accounts, 2 runs" in shown(capsys, "verify")
    books.corrupt("UPDATE usage SET charge_microusd = charge_microusd + 1 WHERE request = 1 AND requests = 1")
    assert run("verify") == 1
    text = capsys.readouterr().out
    assert "run 2 (two), tenant acme/search: micro-dollars that went to revenue" in text
    assert "The books are wrong: 2 differences in 39 postings" in text
    assert run("verify", "--json", "-") == 1
    found = json.loads(capsys.readouterr().out)
    assert (found["right"], len(found["differences"])) == (False, 2)


def test_verify_says_twenty_lines_and_how_many_more(books: Books, capsys: Capture) -> None:
    books.corrupt("UPDATE postings SET amount = -amount")
    assert run("verify") == 1
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 22
    assert lines[20].startswith("and ")
    assert lines[21].startswith("The books are wrong: ")


def test_export(books: Books, capsys: Capture, tmp_path: Path) -> None:
    rows = list(csv.DictReader(io.StringIO(shown(capsys, "export", "-", "--format", "spend-log"))))
    assert sum(float(row["spend"]) for row in rows) == pytest.approx(0.013448)
    file = tmp_path / "out" / "books.csv"
    file.parent.mkdir()
    assert f"39 rows in {file}" in shown(capsys, "export", str(file), "--what", "postings")
    assert len(file.read_text("utf-8").splitlines()) == 40
    pytest.importorskip("duckdb")
    parquet = file.with_suffix(".parquet")
    assert "7 rows in" in shown(capsys, "export", str(parquet))
    assert {path.stat().st_mode & 0o077 for path in (file, parquet)} == {0}  # what customers did and paid
    assert parquet.read_bytes()[:4] == b"PAR1"
    assert sorted(path.name for path in file.parent.iterdir()) == ["books.csv", "books.parquet"]


def test_an_export_that_fails_leaves_the_old_file(books: Books, capsys: Capture, tmp_path: Path) -> None:
    file = tmp_path / "books.csv"
    file.write_text("old\n", "utf-8")
    books.corrupt("UPDATE usage SET account = 999 WHERE request = 3")
    assert run("export", str(file)) == 1
    assert "account 999" in capsys.readouterr().err
    assert file.read_text("utf-8") == "old\n"
    assert not list(tmp_path.glob(".books*"))


BAD: list[tuple[list[str], str]] = [
    (["statement", "--by", "tenants"], "group by tenant, key"),
    (["statement", "--since", "yesterday"], "--since 'yesterday' is no moment"),
    (["statement", "--until", "99999999999d"], "is no moment"),
    (["statement", "--since", "2026-11-23", "--until", "2026-11-22"], "--since must lie before --until"),
    (["margin", "--by", "model"], "group by tenant, key"),
    (["top", "--by", "beauty"], "beauty"),
    (["top", "--limit", "0"], "limit"),
    (["export", "-", "--format", "parquet"], "Parquet is no text"),
    (["export", "x.csv", "--format", "spend-log", "--what", "postings"], "leave out --what postings"),
    (["statement", "--ledger", "mysql://host/db"], "not mysql://"),
]


@pytest.mark.parametrize(("tokens", "sentence"), BAD, ids=[" ".join(tokens) for tokens, _ in BAD])
def test_bad_input_is_one_sentence(books: Books, capsys: Capture, tokens: list[str], sentence: str) -> None:
    assert run(*tokens) == 2
    said = capsys.readouterr().err
    assert sentence in said
    assert len(said.splitlines()) == 1


@pytest.mark.parametrize("command", ["statement", "margin", "top", "verify"])
def test_a_ledger_that_is_not_there_is_not_made(tmp_path: Path, capsys: Capture, command: str) -> None:
    path = tmp_path / "no.db"
    assert run(command, "--ledger", str(path)) == 2
    assert f"there is no ledger at {path}" in capsys.readouterr().err
    assert not path.exists()


def test_the_ledger_of_the_settings(
    books: Books, capsys: Capture, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    settings = tmp_path / "stepwell.toml"
    settings.write_text(f'[ledger]\npath = "{books.path}"\n', "utf-8")
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "elsewhere"))
    assert run("verify") == 2
    assert "there is no ledger at" in capsys.readouterr().err
    assert run("verify") == 2
    assert "the server's settings with --config" in capsys.readouterr().err
    assert run("backup", str(tmp_path / "none.db")) == 2
    assert run("compact", "--keep-days", "90") == 2
    assert capsys.readouterr().err.count("the server's settings with --config") == 2
    for command in ("verify", "statement", "margin", "top"):
        assert shown(capsys, command, "--config", str(settings))
    assert "nothing was changed" in shown(
        capsys, "compact", "--keep-days", "90", "--dry-run", "--config", str(settings)
    )
    assert run("backup", str(tmp_path / "copy.db"), "--config", str(settings)) == 0
    capsys.readouterr()
    monkeypatch.setenv("STEPWELL_CONFIG", str(settings))
    assert "39 postings" in shown(capsys, "verify")
    monkeypatch.setenv("STEPWELL_LEDGER_PATH", "none")
    assert run("verify") == 2
    assert "no ledger is kept" in capsys.readouterr().err


def test_times(books: Books, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stepwell.commands.ledger.flags.time.time", lambda: START_S + 2 * 86_400)

    def requests(*tokens: str) -> Any:
        return as_json(capsys, "statement", *tokens)["total"]["requests"]

    assert requests("--since", "2d") == 6
    assert requests("--since", "36h") == 2
    assert requests("--since", "3d", "--until", "2820min") == 2
    assert requests("--until", "520w") == 0
    assert requests("--since", "2026-11-22T00:30", "--until", "2026-11-22T03:00+01:00") == 2


def test_books(capsys: Capture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    text = shown(capsys, "books")
    for kind in ("price", "cost"):
        for name in preset_names(kind):
            assert f"\n{name} " in text
    assert max(map(len, text.splitlines())) <= 80
    own = tmp_path / "own.toml"
    own.write_text(shown(capsys, "books", "laptop"), "utf-8")
    room = PerTier(10**9, 0, 0)
    assert load_cost_book(own).rates(room) == load_cost_book("laptop").rates(room)
    assert run("books", "laptap") == 2
    assert "did you mean 'laptop'?" in capsys.readouterr().err


def test_parquet_without_duckdb_says_what_to_install(
    books: Books, capsys: Capture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "duckdb", None)
    assert run("export", str(tmp_path / "x.parquet")) == 1
    assert "[analytics]" in capsys.readouterr().err
    assert not list(tmp_path.glob("*x.parquet*"))


@pytest.mark.parametrize("name", ["books.xlsx", "books", "books.ods"])
def test_an_export_of_an_unknown_ending_is_refused(
    books: Books, capsys: Capture, tmp_path: Path, name: str
) -> None:
    assert run("export", str(tmp_path / name)) == 2
    assert "an export is .csv, .parquet; for another name say what it is" in capsys.readouterr().err
    assert not (tmp_path / name).exists()
    assert run("export", str(tmp_path / name), "--format", "csv") == 0


@pytest.mark.parametrize(
    ("command", "flag", "name"),
    [
        ("ledger bill acme", "--pdf", "bill.docx"),
        ("ledger bill acme", "--html", "bill.pdf"),
        ("plan hardware", "--html", "plan.pdf"),
        ("simulate", "--html", "fleet.xlsx"),
        ("signals log", "--html", "signals"),
    ],
)
def test_a_page_or_pdf_by_the_name_of_something_else_is_refused(
    capsys: Capture, tmp_path: Path, command: str, flag: str, name: str
) -> None:
    assert cli.run([*command.split(), flag, str(tmp_path / name)]) == 2
    assert "its name ends in ." in capsys.readouterr().err
    assert not (tmp_path / name).exists()


def test_by_day_and_by_other_prices(books: Books, capsys: Capture) -> None:
    found = as_json(capsys, "statement", "--by", "day,tenant")
    days = [row["day"] for row in found["rows"]]
    assert days == sorted(days) and len(set(days)) > 1
    assert sum(row["charge_microusd"] for row in found["rows"]) == found["total"]["charge_microusd"]
    cheap = as_json(capsys, "statement", "--price-book", "local")
    assert cheap["price_book"] == "local"
    dear = as_json(capsys, "statement", "--price-book", "anthropic-claude-opus-4.5")
    assert dear["total"]["charge_microusd"] > cheap["total"]["charge_microusd"]
    assert "by the price book local" in shown(capsys, "margin", "--price-book", "local")
    by_month = as_json(capsys, "margin", "--by", "month,tenant")
    assert {line["month"] for line in by_month["lines"]} == {"2026-11"}
    assert run("statement", "--by", "day,week") == 2


@pytest.mark.parametrize("columns", [40, 80, 100])
def test_no_day_is_cut(books: Books, capsys: Capture, monkeypatch: pytest.MonkeyPatch, columns: int) -> None:
    days = {line["day"] for line in as_json(capsys, "margin", "--by", "day,tenant,role")["lines"]}
    monkeypatch.setenv("COLUMNS", str(columns))
    for command in ("margin", "statement"):
        said = shown(capsys, command, "--by", "day,tenant,role")
        assert days <= set(re.findall(r"\d{4}-\d\d-\d\d", said))
        assert not re.search(r"\d…", said)


def test_keys_have_the_names_of_the_settings(
    books: Books, capsys: Capture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret = KeyEntry("acme", key="sk-acme", name="website")
    books.store.close()
    store = SqliteStore(tmp_path / "stepwell" / "ledger.db")
    account = agent("acme", "s9", "a")._replace(key=secret.api_key().id)
    Writer.begin(store, "later").settle(used(account, 1, START_S * 1_000_000, 5, requests=1))
    store.close()
    config = tmp_path / "stepwell.toml"
    config.write_text('[[keys]]\nkey = "sk-acme"\ntenant = "acme"\nname = "website"\n')
    monkeypatch.setenv("STEPWELL_CONFIG", str(config))
    monkeypatch.setenv("COLUMNS", "120")
    assert f"website ({account.key})" in shown(capsys, "statement", "--by", "key")
    rows = as_json(capsys, "statement", "--by", "key")["rows"]
    assert {row.get("key_name") for row in rows} == {None, "website"}


def test_a_month_as_a_page_to_send(
    books: Books, capsys: Capture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    said = shown(capsys, "bill", "acme", "--month", "2026-11", "--issuer", "Example & Co")
    page = (tmp_path / "acme-2026-11.html").read_text("utf-8")
    total = as_json(capsys, "statement", "--tenant", "acme", "--since", "2026-11-01")["total"]
    charge = f"{total['charge_microusd'] / 1e6:.6f}"
    assert said.strip() == f"acme-2026-11.html: acme, 2026-11, {total['requests']} requests, {charge} USD"
    assert "Example &amp; Co" in page and charge in page and "By day" in page
    assert "rival" not in page and "http" not in page
    assert all(path.stat().st_mode & 0o077 == 0 for path in Path().glob("acme*.html"))
    with_pdf = ["bill", "acme", "--month", "2026-11", "--issuer", "井 & Co", "--pdf", "bill.pdf"]
    assert shown(capsys, *with_pdf).startswith("acme-2026-11.html, bill.pdf: ")
    first = (tmp_path / "bill.pdf").read_bytes()
    text = "".join(one.extract_text() for one in PdfReader(io.BytesIO(first)).pages)
    assert charge in text and "By day" in text and "rival" not in text
    assert shown(capsys, *with_pdf) and (tmp_path / "bill.pdf").read_bytes() == first
    assert run(*with_pdf[:-1], "nowhere/bill.pdf") == 2
    assert run("bill", "acme", "--month", "2020-01") == 2
    assert run("bill", "acme", "--month", "soon") == 2
