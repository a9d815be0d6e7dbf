"""Options, status server and configuration of the router: one clear sentence for what does not fit."""

import asyncio
import tomllib
from pathlib import Path

import pytest
from click.testing import CliRunner

from overlay.aio.lifecycle import UsageError
from overlay.aio.options import load_config, parse_listen
from router.metrics import MAX_CONNECTIONS, MAX_REQUEST, StatusServer
from router.program import main
from tests.support.simulation import Simulation

ROOT = Path(__file__).parents[3]
OPTIONS = [
    str(one.name).replace("_", "-") for one in main.commands["run"].params if one.name != "config"
]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "--dir is missing"),
        (["--dir", "x"], "--listen is missing"),
        (["--dir", "x", "--listen", "nowhere"], "--listen must be HOST:PORT"),
        (["--dir", "x", "--listen", "a:99999"], "--listen must be HOST:PORT"),
        (["--dir", "x", "--listen", "a:1", "--metrics", "y"], "--metrics must be HOST:PORT"),
        (["--dir", "x", "--listen", "a:1", "--log-format", "xml"], "xml"),
        (["--config", "/no/such/file"], "cannot be read"),
        (["--nonsense"], "--nonsense"),
    ],
)
def test_wrong_usage_is_exit_code_2_and_one_sentence(arguments: list[str], words: str):
    result = CliRunner().invoke(main, ["run", *arguments])
    assert result.exit_code == 2
    assert words in result.output
    assert "Traceback" not in result.output


def test_help_has_an_example():
    result = CliRunner().invoke(main, ["run", "--help"])
    assert result.exit_code == 0
    assert "Example: ferrule-router run --dir" in result.output


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("dir = ", "not TOML"),
        ("folder = 'x'", "there is no option 'folder'"),
        ("dir = 3", "must be text"),
    ],
)
def test_a_bad_configuration_is_explained(tmp_path: Path, text: str, words: str):
    file = tmp_path / "router.toml"
    file.write_text(text)
    with pytest.raises(UsageError, match=words):
        load_config(file, OPTIONS)


def test_the_example_configuration_loads():
    example = ROOT / "deploy/examples/router.toml"
    assert load_config(example, OPTIONS) == tomllib.loads(example.read_text())


def test_addresses():
    assert parse_listen("0.0.0.0:8441", "--listen") == ("0.0.0.0", 8441)
    assert parse_listen("[::1]:0", "--listen") == ("::1", 0)


class Client:
    """One raw HTTP request."""

    def __init__(self) -> None:
        self.data = b""
        self.over = asyncio.Event()
        self._memory = memoryview(bytearray(4096))

    def buffer(self) -> memoryview:
        return self._memory

    def received(self, count: int) -> None:
        self.data += self._memory[:count]

    def ended(self) -> None:
        self.over.set()

    def writable(self) -> None: ...

    def lost(self, error: OSError | None) -> None:
        self.over.set()


async def ask(sim: Simulation, request: bytes) -> bytes:
    world = sim.host("r").world
    client = Client()
    connection = await world.net.connect("127.0.0.1", 9464)
    connection.start(client)
    connection.write([request])
    await client.over.wait()
    connection.close()
    return client.data


def test_the_status_server_is_small_and_bounded():
    sim = Simulation()

    async def story():
        world = sim.host("r").world
        server = StatusServer(world, lambda: {"name": "r1", "links": 2, "counts": {}})
        for outside in ("0.0.0.0", "10.0.0.1", "::", "example.org"):
            with pytest.raises(UsageError, match="loopback"):
                await server.listen(outside, 1)
        await server.listen("127.0.0.1", 9464)
        assert b'"name": "r1"' in await ask(sim, b"GET /status HTTP/1.1\r\n\r\n")
        assert b"ferrule_router_links 2.0" in await ask(sim, b"GET /metrics HTTP/1.0\r\n\r\n")
        assert b" 404 " in await ask(sim, b"GET /x HTTP/1.1\r\n\r\n")
        assert b" 405 " in await ask(sim, b"POST /metrics HTTP/1.1\r\n\r\n")
        assert b" 405 " in await ask(sim, b"\r\n\r\n")
        assert b" 431 " in await ask(sim, b"x" * (MAX_REQUEST + 1))
        idle = [await world.net.connect("127.0.0.1", 9464) for _ in range(MAX_CONNECTIONS)]
        await asyncio.sleep(0.1)
        assert await ask(sim, b"GET /status HTTP/1.1\r\n\r\n") == b""
        idle[0].close()
        await asyncio.sleep(0.1)
        assert b"r1" in await ask(sim, b"GET /status HTTP/1.1\r\n\r\n")
        server.close()
        await asyncio.sleep(0.1)
        assert server._open == set()

    sim.run(story())
