"""An OPC UA server on loopback, of a library that knows nothing of Ferrule: `python -m tests.support.opcua PORT`."""

import asyncio
import sys

from asyncua.server.server import Server


async def main(port: int) -> None:
    """Until it is killed."""
    server = Server()
    await server.init()
    server.set_endpoint(f"opc.tcp://127.0.0.1:{port}/")
    async with server:
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1])))
