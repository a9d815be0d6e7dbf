"""An HMI that knows nothing of Ferrule: `python -m deploy.demo.hmi HOST [PORT [FROM]]` reads ten holding registers.

Modbus/TCP by hand, from the standard library alone. It prints the registers, or why there are none and ends with 1.
"""

import socket
import struct
import sys

COUNT = 10
MODBUS = 502
TIMEOUT = 5.0


def poll(host: str, port: int = MODBUS, source: str = "") -> list[int]:
    """The registers. Raises: OSError: nobody answers."""
    address = (source, 0) if source else None
    with socket.create_connection((host, port), TIMEOUT, address) as sock:
        sock.sendall(struct.pack("!HHHBBHH", 1, 0, 6, 1, 3, 0, COUNT))
        answer = b""
        while len(answer) < 9 + 2 * COUNT:
            more = sock.recv(512)
            if not more:
                raise ConnectionResetError("the connection was closed")
            answer += more
    return list(struct.unpack(f"!{COUNT}H", answer[9 : 9 + 2 * COUNT]))


def main() -> int:
    """One poll; the exit code."""
    try:
        host, port, source = (*sys.argv[1:], "", "")[:3]
        registers = poll(host, int(port or MODBUS), source)
    except OSError as error:
        print(error.strerror or error)
        return 1
    print(*registers)
    return 0


if __name__ == "__main__":
    sys.exit(main())
