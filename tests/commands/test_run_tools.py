"""``stepwell run`` with a crew whose file declares MCP servers and Python functions as tools."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
from tests.agents.scripted import calls
from tests.agents.served import served

from stepwell import cli
from stepwell.agents.crews.files import find_crew, parse_crew
from stepwell.errors import BadInput

MCP_SERVER = Path(__file__).resolve().parents[1] / "agents" / "tools" / "mcp_server.py"
CREW = """
[roles.lead]
instructions = "You lead."
tools = [{tools}]
[mcp.tiny]
command = "{command}"
args = ["{script}"]
env = {{ TINY_SECRET = "{secret}" }}
timeout_s = 3
"""


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    return tmp_path


def write_crew(home: Path, *tools: str, secret: str = "given", script: Path = MCP_SERVER) -> str:
    named = ", ".join(f'"{tool}"' for tool in tools)
    text = CREW.format(tools=named, command=sys.executable, script=script, secret=secret)
    (home / "crew.toml").write_text(text)
    return str(home / "crew.toml")


def calling(*wanted: tuple[str, dict[str, Any]]) -> Any:
    """A model that makes these calls, one a turn, and then answers."""

    def answer(body: dict[str, Any]) -> Any:
        turn = sum(1 for message in body["messages"] if message["role"] == "assistant")
        return calls(wanted[turn]) if turn < len(wanted) else "Done."

    return answer


def test_tools_of_a_declared_server_are_called(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("mcp")
    monkeypatch.setenv("STEPWELL_SECRET", "hunter2")
    crew = write_crew(home, "calculator", "mcp:tiny", secret="$STEPWELL_SECRET")
    with served(calling(("add", {"a": 2, "b": 3}), ("whoami", {}))) as server:
        assert cli.run(["run", crew, "--ask", "Who?", "--server", server.url]) == 0
    offered = [tool["function"]["name"] for tool in server.bodies[0]["tools"]]
    assert sorted(offered) == ["add", "calculator", "die", "fail", "hang", "whoami"]
    assert server.said("tool")[0] == "5"
    assert server.said("tool")[-1].split()[1:] == ["hunter2", "None"]


def test_a_server_that_hangs_or_dies_is_a_sentence_and_the_session_goes_on(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("mcp")
    crew = write_crew(home, "mcp:tiny")
    wanted = [("hang", {}), ("die", {}), ("add", {"a": 1, "b": 1}), ("die", {}), ("add", {"a": 2, "b": 2})]
    with served(calling(*wanted)) as server:
        assert cli.run(["run", crew, "--ask", "Who?", "--server", server.url]) == 0
    assert capsys.readouterr().out == "Done.\n"
    told = server.said("tool")[-len(wanted) :]
    assert "the MCP server tiny did not answer within 3 s" in told[0]
    assert "the MCP server tiny died during the call; it may or may not have been done" in told[1]
    assert told[2] == "2"
    assert "the MCP server tiny has died again and is not started any more" in told[4]


def test_a_server_that_does_not_start_ends_the_run_before_a_turn(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("mcp")
    crew = write_crew(home, "mcp:tiny", script=home / "absent.py")
    with served(calling()) as server:
        assert cli.run(["run", crew, "--ask", "Who?", "--server", server.url]) == 1
    assert server.bodies == []
    assert "stepwell: the MCP server tiny could not be started" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("tool", "secret", "sentence"),
    [
        ("mcp:shelf", "x", "there is no MCP server 'shelf': declared are tiny; declare it as [mcp.shelf]"),
        (
            "mcp:tiny",
            "$STEPWELL_UNSET",
            "[mcp.tiny]: env: TINY_SECRET is to be passed $STEPWELL_UNSET, which is not set: "
            "export STEPWELL_UNSET",
        ),
        (
            "python:own.py:stok",
            "x",
            "python:own.py:stok: own.py has no function stok",
        ),
        (
            "python:own.py",
            "x",
            "python:own.py: write python:FILE.py:FUNCTION or python:PACKAGE.MODULE:FUNCTION",
        ),
        (
            "python:broken.py:stock",
            "x",
            "python:broken.py:stock: broken.py cannot be imported: ZeroDivisionError: division by zero",
        ),
        (
            "python:no.such.module:stock",
            "x",
            "python:no.such.module:stock: no.such.module cannot be imported: "
            "ModuleNotFoundError: No module named 'no'",
        ),
    ],
)
def test_what_cannot_be_had_is_one_sentence_before_anything_is_loaded(
    home: Path, tool: str, secret: str, sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("mcp")
    (home / "own.py").write_text("def stock() -> int:\n    'Says it.'\n    return 12\n")
    (home / "broken.py").write_text("1 / 0\n")
    assert cli.run(["run", write_crew(home, tool, secret=secret), "--ask", "x"]) == 2
    assert capsys.readouterr().err == f"stepwell: {sentence}\n"


def test_functions_of_a_file_beside_the_crew_are_tools(home: Path) -> None:
    (home / "own.py").write_text(
        "from __future__ import annotations\n"
        "from collections.abc import Sequence\n"
        "from stepwell.agents.tools import tool\n"
        "asked = []\n"
        "def stock(articles: Sequence[str], shop: int = 1) -> dict[str, int]:\n"
        "    '''Says how many a shop has.'''\n"
        "    asked.append(articles)\n"
        "    return {'in_stock': 12 * shop, 'asked': len(asked)}\n"
        "@tool\n"
        "def often() -> int:\n"
        "    '''Says how often it was asked.'''\n"
        "    return len(asked)\n"
    )
    crew = write_crew(home, "python:own.py:stock", "python:own.py:often")
    wanted = [("stock", {"articles": ["lamp"], "shop": 2}), ("often", {}), ("stock", {"shop": "main street"})]
    with served(calling(*wanted)) as server:
        assert cli.run(["run", crew, "--ask", "How many?", "--server", server.url]) == 0
    told = server.said("tool")[-3:]
    assert told[:2] == ['{"in_stock":24,"asked":1}', "1"]
    assert "articles" in told[2]


@pytest.mark.parametrize(
    ("table", "sentence"),
    [
        ('args = ["x"]', "[mcp.tiny] has no command: name the program that is the server"),
        ('comand = "x"', "[mcp.tiny]: key 'comand' is not known: did you mean 'command'?"),
        ('command = "x"\nargs = [1]', "[mcp.tiny]: args holds text alone: put numbers in quotes"),
        ('command = "x"\nenv = {A = 1}', "[mcp.tiny]: env holds text alone: put numbers in quotes"),
        ('command = "x"\ntimeout_s = 0', "[mcp.tiny]: timeout_s is a number of seconds, at most 3600, not 0"),
    ],
)
def test_a_server_that_is_declared_wrongly_is_one_sentence(table: str, sentence: str) -> None:
    with pytest.raises(BadInput) as raised:
        parse_crew(f'[roles.lead]\ninstructions = "You lead."\n[mcp.tiny]\n{table}\n')
    assert str(raised.value) == f"crew: {sentence}"


def test_a_declared_server_is_part_of_the_crew(home: Path) -> None:
    crew = find_crew(write_crew(home, "mcp:tiny"))
    assert crew.folder == home.resolve()
    tiny = crew.mcp_servers["tiny"]
    assert (tiny.command, tiny.args, tiny.timeout_s) == (sys.executable, (str(MCP_SERVER),), 3.0)
    assert tiny.env == {"TINY_SECRET": "given"}
