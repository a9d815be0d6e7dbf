"""The PLC and the HMI of the demo: a real Modbus/TCP server and client (pymodbus), each on its own.

`python -m deploy.demo.devices PORT [HOST [FIRST]]` runs the PLC: holding registers 0 to 9 hold 100 to 109, or those
that begin with FIRST.
"""

import asyncio
import sys
from dataclasses import dataclass

from pymodbus.client import ModbusTcpClient
from pymodbus.exceptions import ModbusException
from pymodbus.server import StartAsyncTcpServer
from pymodbus.simulator import DataType, SimData, SimDevice

REGISTERS = list(range(100, 110))


@dataclass
class Poll:
    """One poll: the registers that came back, or in words why none did."""

    registers: list[int] | None
    problem: str = ""


class Hmi:
    """A Modbus client that keeps its connection open, as HMIs do."""

    def __init__(self, port: int) -> None:
        self.client = ModbusTcpClient("127.0.0.1", port=port, timeout=3, retries=0)

    def poll(self) -> Poll:
        """Read ten holding registers; connects first when needed."""
        try:
            if not self.client.connected and not self.client.connect():
                return Poll(None, "connection refused")
            answer = self.client.read_holding_registers(0, count=len(REGISTERS), device_id=1)
        except (ModbusException, OSError) as error:
            self.client.close()
            return Poll(None, str(error))
        if answer.isError():
            return Poll(None, str(answer))
        return Poll(list(answer.registers))

    def close(self) -> None:
        """Hang up."""
        self.client.close()


async def serve(port: int, host: str = "127.0.0.1", first: int = REGISTERS[0]) -> None:
    """The PLC."""
    values = list(range(first, first + len(REGISTERS)))
    device = SimDevice(id=1, simdata=[SimData(0, values=values, datatype=DataType.REGISTERS)])
    await StartAsyncTcpServer(device, address=(host, port))


if __name__ == "__main__":
    port_, host_, first_ = (*sys.argv[1:], "", "")[:3]
    asyncio.run(serve(int(port_), host_ or "127.0.0.1", int(first_ or REGISTERS[0])))
