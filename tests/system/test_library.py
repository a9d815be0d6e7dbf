"""The edge as a library against a real plant: the examples of docs/library.md as they stand, and what they do not show."""

import asyncio
import re
import subprocess
import sys
from pathlib import Path

import pytest

import edge
from deploy.demo.plant import Plant, listening, until
from deploy.demo.ports import free_port
from edge.library import NotConnectedError
from overlay.errors import Code, FerruleError
from tests.support import honest
from tests.support.traffic import Echo

pytestmark = pytest.mark.timeout(400)

ROOT = Path(__file__).parents[2]
EXAMPLES = re.findall(r"```python\n(.*?)```", (ROOT / "docs/library.md").read_text(), re.DOTALL)


@pytest.fixture(scope="module")
def bench(plant: Plant, echo: Echo) -> Path:
    """The folder of an edge for the library; its token is beside it."""
    plant.ferrule("add", "asset", "plc-b", "--edge", "edge-b", "--address", "127.0.0.1")
    plant.ferrule("add", "service", "plc-b", "echo", "--port", str(echo.port))
    plant.ferrule("add", "edge", "bench", "--token-out", plant.path("bench.token"))
    plant.ferrule("add", "asset", "bench-1", "--edge", "bench", "--address", "127.0.0.1")
    plant.ferrule("add", "service", "bench-1", "echo", "--port", "7")
    plant.ferrule("allow", "bench", "plc-b", "echo")
    return Path(plant.path("bench"))


def run(example: str, bench: Path) -> str:
    code = example.replace("/var/lib/bench", str(bench)).replace(
        '"bench.token"', f'"{bench}.token"'
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        timeout=90,
        cwd=ROOT,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout.strip()


def test_a_client_connects_as_the_document_says(bench: Path):
    assert run(EXAMPLES[0], bench) == "b'are you there?'"


def test_a_modbus_client_works_unchanged(plant: Plant, bench: Path):
    port = free_port()
    server = subprocess.Popen(
        [sys.executable, "-m", "deploy.demo.devices", str(port)], cwd=ROOT,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        until(lambda: listening(port), 20, "the Modbus server")
        plant.ferrule("add", "service", "plc-b", "modbus", "--port", str(port))
        plant.ferrule("allow", "bench", "plc-b", "modbus")
        assert re.fullmatch(r"\[\d+, \d+\]", run(EXAMPLES[1], bench))
    finally:
        server.kill()
        server.wait()


def test_an_opcua_client_works_with_one_method_of_ours(plant: Plant, bench: Path):
    port = free_port()
    command = [sys.executable, "-m", "tests.support.opcua", str(port)]
    server = subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        until(lambda: listening(port), 20, "the OPC UA server")
        plant.ferrule("add", "service", "plc-b", "opcua", "--port", str(port))
        plant.ferrule("allow", "bench", "plc-b", "opcua")
        assert run(EXAMPLES[2], bench) == "0"
    finally:
        server.kill()
        server.wait()


def test_a_program_hosts_and_calls_at_once(bench: Path):
    assert run(EXAMPLES[3], bench) == "b'done'"


def sockets() -> int:
    """Sockets that this process has open."""
    found = 0
    for one in Path("/proc/self/fd").iterdir():
        try:
            found += str(one.readlink()).startswith("socket:")
        except FileNotFoundError:
            continue
    return found


async def test_a_plant_that_is_closed_leaves_no_link_behind(bench: Path, echo: Echo):
    async with edge.open(bench):
        pass  # what a program loads once is loaded
    before = sockets()
    async with edge.open(bench) as there:
        reader, writer = await there.connect("plc-b.echo")
        writer.write(b"x")
        assert await reader.readexactly(1) == b"x"
        assert sockets() > before
    await honest.until(lambda: sockets() <= before)


async def test_who_gives_up_leaves_no_circuit_behind(bench: Path, echo: Echo):
    async with edge.open(bench) as there:
        endpoint = there._parts()[1].endpoint

        def open_now() -> int:
            return [one.service for one in endpoint.streams()].count("plc-b.echo")

        given_up = asyncio.create_task(there.connect("plc-b.echo"))
        await asyncio.sleep(0)
        assert open_now() == 1
        given_up.cancel()
        await honest.until(lambda: not open_now())
        assert given_up.cancelled()


async def test_what_is_denied_or_cut_is_a_clear_error_and_what_is_hosted_is_reached(
    plant: Plant, bench: Path, echo: Echo
):
    async with edge.open(bench) as there:
        assert there.name == "bench"
        with pytest.raises(NotConnectedError, match="no conduit allows bench to reach") as denied:
            await there.connect("plc-b.secret")
        assert denied.value.code is Code.NO_GRANT
        assert isinstance(denied.value, ConnectionRefusedError)

        async def served(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            assert writer.get_extra_info("who") == "hmi-a"
            writer.write(await reader.readexactly(3) + b"!")

        earlier = await there.listen("bench-1.echo", served)
        earlier.close()
        await there.listen("bench-1.echo", served)
        earlier.close()  # once more, and nothing to those who host it now
        with pytest.raises(FerruleError, match="hosts bench-1"):
            await there.listen("bench-1.echo", served)
        await asyncio.to_thread(caller, plant)

        reader, writer = await there.connect("plc-b.echo")
        bulk = bytes(range(256)) * 20_000
        writer.write(bulk)
        assert await reader.readexactly(len(bulk)) == bulk  # back-pressure both ways
        writer.write_eof()
        assert await reader.read() == b""
        reader, writer = await there.connect("plc-b.echo")
        writer.write(b"x")
        assert await reader.readexactly(1) == b"x"
        await asyncio.to_thread(plant.ferrule, "deny", "bench", "plc-b", "echo")
        with pytest.raises(ConnectionResetError):
            await reader.read()
    with pytest.raises(FerruleError, match="not open"):
        await there.connect("plc-b.echo")


def caller(plant: Plant) -> None:
    """hmi-a at a listener of edge-a reaches what the program hosts."""
    import socket

    listen = free_port()
    plant.ferrule("add", "asset", "hmi-a", "--edge", "edge-a")
    plant.ferrule("allow", "hmi-a", "bench-1", "echo")
    plant.ferrule("add", "listener", "edge-a", "bench-1.echo", "--listen", f"127.0.0.1:{listen}",
                  "--as", "hmi-a")  # fmt: skip

    def reached() -> bool:
        try:
            with socket.create_connection(("127.0.0.1", listen), 3) as sock:
                sock.sendall(b"abc")
                sock.settimeout(3)
                return sock.recv(4) == b"abc!"
        except OSError:
            return False

    until(reached, 15, "the hosted service")
