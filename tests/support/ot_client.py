"""Programs of OT libraries as anybody writes them: `python -m tests.support.ot_client KIND HOST` reads one device.

Nothing here knows of Ferrule: a host and the library's own way to connect. It prints what it read.
"""

import asyncio
import sys


def modbus(host: str) -> None:
    """Pymodbus."""
    from pymodbus.client import ModbusTcpClient

    client = ModbusTcpClient(host, timeout=20, retries=0)
    if not client.connect():
        raise ConnectionError("not connected")
    print(client.read_holding_registers(0, count=10, device_id=1).registers)
    client.close()


def opcua(host: str) -> None:
    """Asyncua."""
    from asyncua.client.client import Client

    async def read() -> None:
        place = f"[{host}]" if ":" in host else host
        async with Client(f"opc.tcp://{place}:4840/", timeout=20) as client:
            index = await client.get_namespace_index("urn:plc")
            print(await client.get_node(f"ns={index};s=level").read_value())

    asyncio.run(read())


def s7(host: str) -> None:
    """python-snap7."""
    from snap7.client import Client

    client = Client()
    client.connect(host, 0, 1)
    print(bytes(client.db_read(1, 0, 64)).hex())
    client.disconnect()


if __name__ == "__main__":
    {"modbus": modbus, "opcua": opcua, "s7": s7}[sys.argv[1]](sys.argv[2])
