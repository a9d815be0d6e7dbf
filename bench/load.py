"""Traffic for the benchmarks, run as small processes inside network namespaces.

`python -m bench.load serve ADDRESS PORT`: the first byte from a client says what it does: `s` swallow, `e` echo.
`... bulk ADDRESS PORT STREAMS SECONDS` and `... echo ADDRESS PORT SECONDS` print one JSON document.

Bulk counts bytes that the *server* has taken: it reports its count at the end of each stream, so bytes that
still sit in somebody's buffer are not throughput.
"""

import json
import selectors
import socket
import struct
import sys
import threading
import time

CHUNK = 256 * 1024
MESSAGE = b"twelve bytes"
COUNT = struct.Struct("!Q")


def serve(address: str, port: int) -> None:
    """Swallow or echo until killed; one thread per connection."""
    listener = socket.create_server((address, port), backlog=512)
    while True:
        connection, _ = listener.accept()
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        threading.Thread(target=answer, args=(connection,), daemon=True).start()


def answer(connection: socket.socket) -> None:
    """One connection of the server."""
    with connection:
        mode = connection.recv(1)
        if mode == b"e":
            while data := connection.recv(65_536):
                connection.sendall(data)
        elif mode == b"s":
            memory = bytearray(1 << 20)
            total = 0
            while count := connection.recv_into(memory):
                total += count
            connection.sendall(COUNT.pack(total))


def bulk(address: str, port: int, streams: int, seconds: float) -> dict[str, object]:
    """Send on several streams at once for some seconds; Gbit/s in all, and what each stream got."""
    chooser = selectors.DefaultSelector()
    payload = memoryview(bytes(CHUNK))
    sockets = []
    for _ in range(streams):
        stream = socket.create_connection((address, port))
        stream.sendall(b"s")
        stream.settimeout(0)
        chooser.register(stream, selectors.EVENT_WRITE)
        sockets.append(stream)
    begun = time.perf_counter()
    while time.perf_counter() - begun < seconds:
        for key, _ in chooser.select(0.1):
            key.fileobj.send(payload)  # type: ignore[union-attr]
    counts = []
    for stream in sockets:
        stream.settimeout(30)
        stream.shutdown(socket.SHUT_WR)
    for stream in sockets:
        counts.append(COUNT.unpack(stream.recv(COUNT.size, socket.MSG_WAITALL))[0])
        stream.close()
    took = time.perf_counter() - begun
    fair = sum(counts) ** 2 / (streams * sum(count * count for count in counts))
    return {
        "gbit_per_s": sum(counts) * 8 / took / 1e9,
        "jain": fair,
        "bytes": sum(counts),
        "seconds": took,
    }


def echo(address: str, port: int, seconds: float) -> dict[str, object]:
    """12 bytes there and back, one at a time; round trips in microseconds."""
    with socket.create_connection((address, port)) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.sendall(b"e")
        times = []
        begun = time.perf_counter()
        while time.perf_counter() - begun < seconds:
            sent = time.perf_counter()
            connection.sendall(MESSAGE)
            if connection.recv(len(MESSAGE), socket.MSG_WAITALL) != MESSAGE:
                raise ConnectionError("the echo did not come back")
            times.append((time.perf_counter() - sent) * 1e6)
    times.sort()
    return {
        "p50_us": times[len(times) // 2],
        "p99_us": times[len(times) * 99 // 100],
        "count": len(times),
    }


def main() -> None:
    """One role, by arguments."""
    role, address, port, *rest = sys.argv[1:]
    if role == "serve":
        serve(address, int(port))
    elif role == "bulk":
        print(json.dumps(bulk(address, int(port), int(rest[0]), float(rest[1]))))
    elif role == "echo":
        print(json.dumps(echo(address, int(port), float(rest[0]))))
    else:
        sys.exit(f"{role}: not one of serve, bulk, echo")


if __name__ == "__main__":
    main()
