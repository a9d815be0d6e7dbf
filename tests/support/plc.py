"""A device that speaks much: `python -m tests.support.plc` offers HTTP, Modbus, OPC UA, S7 and DNS until it is killed.

Real servers of other projects where there are any; nothing here knows of Ferrule. It prints `ready` when all listen.
"""

import asyncio
import http.server
import logging
import threading
from typing import Any

import dns.flags
import dns.message
import dns.rrset
from asyncua.server.server import Server
from pymodbus.server import StartAsyncTcpServer
from pymodbus.simulator import DataType, SimData, SimDevice
from snap7.server import Server as S7Server
from snap7.type import SrvArea

PAGE = b"plc-south"
REGISTERS = list(range(100, 110))
LEVEL = 42.5
BLOCK = bytes(range(64))
DNS_TEXT = "answered by the plc"


class Page(http.server.BaseHTTPRequestHandler):
    """What a web page of a device answers."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(PAGE)))
        self.end_headers()
        self.wfile.write(PAGE)

    def log_message(self, *_: object) -> None: ...


class Page6(http.server.ThreadingHTTPServer):
    """The same over IPv6."""

    def __init__(self, *given: Any) -> None:
        import socket

        self.address_family = socket.AF_INET6
        super().__init__(*given)


class Names(asyncio.DatagramProtocol):
    """A name server that knows one text."""

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def datagram_received(self, data: bytes, addr: Any) -> None:
        asked = dns.message.from_wire(data)
        answer = dns.message.make_response(asked)
        answer.flags |= dns.flags.AA
        if asked.question:
            name = asked.question[0].name
            answer.answer.append(dns.rrset.from_text(name, 60, "IN", "TXT", f'"{DNS_TEXT}"'))
        self.transport.sendto(answer.to_wire(), addr)


async def main() -> None:
    """All of them."""
    logging.disable(logging.WARNING)
    for server in (http.server.ThreadingHTTPServer, Page6):
        made = server(
            ("::" if server is Page6 else "0.0.0.0", 80 if server is not Page6 else 8080), Page
        )
        threading.Thread(target=made.serve_forever, daemon=True).start()
    s7 = S7Server(log=False)
    s7.register_area(SrvArea.DB, 1, bytearray(BLOCK))
    s7.start_to("0.0.0.0")
    loop = asyncio.get_running_loop()
    await loop.create_datagram_endpoint(Names, ("0.0.0.0", 53))
    opcua = Server()
    await opcua.init()
    opcua.set_endpoint("opc.tcp://0.0.0.0:4840/")
    index = await opcua.register_namespace("urn:plc")
    await opcua.nodes.objects.add_variable(f"ns={index};s=level", "level", LEVEL)
    async with opcua:
        device = SimDevice(
            id=1, simdata=[SimData(0, values=REGISTERS, datatype=DataType.REGISTERS)]
        )
        modbus = asyncio.create_task(StartAsyncTcpServer(device, address=("0.0.0.0", 502)))
        print("ready", flush=True)
        await modbus


if __name__ == "__main__":
    asyncio.run(main())
