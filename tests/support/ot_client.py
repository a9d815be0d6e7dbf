"""Programs of OT libraries as anybody writes them: `python -m tests.support.ot_client` reads devices.

Each line of its input is KIND HOST PORT, and is answered by one: what was read, or why it was not. Nothing here knows of
Ferrule: a host, a port and the library's own way to connect, with a new client each time. One program for all, since
loading the libraries takes longer than everything that they do here.
"""

import asyncio
import sys


def modbus(host: str, port: int) -> object:
    """Pymodbus."""
    from pymodbus.client import ModbusTcpClient

    client = ModbusTcpClient(host, port=port, timeout=20, retries=0)
    if not client.connect():
        raise ConnectionError("not connected")
    try:
        return client.read_holding_registers(0, count=10, device_id=1).registers
    finally:
        client.close()


def opcua(host: str, port: int) -> object:
    """Asyncua."""
    from asyncua.client.client import Client

    async def read() -> object:
        place = f"[{host}]" if ":" in host else host
        async with Client(f"opc.tcp://{place}:{port}/", timeout=20) as client:
            index = await client.get_namespace_index("urn:plc")
            return await client.get_node(f"ns={index};s=level").read_value()

    return asyncio.run(read())


def s7(host: str, port: int) -> object:
    """python-snap7."""
    from snap7.client import Client

    client = Client()
    client.connect(host, 0, 1, port)
    try:
        return bytes(client.db_read(1, 0, 64)).hex()
    finally:
        client.disconnect()


KINDS = {"modbus": modbus, "opcua": opcua, "s7": s7}


if __name__ == "__main__":
    for line in sys.stdin:
        kind, host, port = line.split()
        try:
            print(KINDS[kind](host, int(port)), flush=True)
        except Exception as error:  # noqa: BLE001 - whatever a library says
            print(f"{type(error).__name__}: {error}", flush=True)
