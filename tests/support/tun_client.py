"""What programs do through a box, and their server; run inside a network namespace.

`python -m tests.support.tun_client serve | stream HOST PORT BYTES | datagrams HOST PORT SIZE... | chatter HOST PORT |
knock HOST PORT | touch HOST PORT | burst HOST PORT COUNT | few HOST PORT COUNT | many HOST PORT COUNT | hold HOST PORT COUNT | poll HOST PORT | echo HOST 0 | raw HOST HEX...` prints one line.
"""

import contextlib
import errno
import hashlib
import resource
import select
import selectors
import socket
import struct
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable

UDP_PORT = 7000
AT_ONCE = 250


def serve() -> None:
    """TCP echo on ports 5000 and 5001, UDP echo on 7000."""
    resource.setrlimit(resource.RLIMIT_NOFILE, (20_000, 20_000))
    chooser = selectors.DefaultSelector()
    for port in (5000, 5001):
        chooser.register(socket.create_server(("0.0.0.0", port), backlog=4096), 1, "listen")
    udp = socket.socket(type=socket.SOCK_DGRAM)
    udp.bind(("0.0.0.0", UDP_PORT))
    chooser.register(udp, 1, "udp")
    print("serving", flush=True)
    while True:
        for key, _ in chooser.select():
            sock = key.fileobj
            assert isinstance(sock, socket.socket)
            if key.data == "listen":
                chooser.register(sock.accept()[0], 1, "tcp")
            elif key.data == "udp":
                data, client = sock.recvfrom(70_000)
                udp.sendto(data, client)
            else:
                answer(chooser, sock)


def answer(chooser: selectors.BaseSelector, sock: socket.socket) -> None:
    """Echo what one client sent."""
    try:
        data = sock.recv(1 << 18)
        if data:
            sock.settimeout(10)
            sock.sendall(data)
            return
    except OSError:
        pass
    chooser.unregister(sock)
    sock.close()


def stream(host: str, port: int, size: int) -> str:
    """Send so many bytes, and compare what comes back."""
    data = hashlib.shake_128(b"tun").digest(1 << 16) * (size >> 16 or 1)
    back, count = hashlib.sha256(), 0
    with socket.create_connection((host, port), 10) as connection:
        sender = threading.Thread(target=connection.sendall, args=(data,))
        sender.start()
        while count < len(data):
            piece = connection.recv(1 << 18)
            if not piece:
                return f"ended after {count}"
            back.update(piece)
            count += len(piece)
        sender.join()
    return "same" if back.digest() == hashlib.sha256(data).digest() else "different"


def datagrams(host: str, port: int, *sizes: int) -> str:
    """Sizes of the datagrams that came back."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    found = []
    with socket.socket(family, socket.SOCK_DGRAM) as client:
        client.settimeout(3)
        client.connect((host, port))
        for size in sizes:
            try:
                client.send(bytes(size))
                found.append(str(len(client.recv(70_000))))
            except OSError as error:
                found.append(errno.errorcode.get(error.errno or 0, "silence"))
    return " ".join(found)


def chatter(host: str, port: int) -> str:
    """The first error of a client that sends datagrams until it hears of one."""
    with socket.socket(
        socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM
    ) as client:
        client.connect((host, port))
        for _ in range(60):
            try:
                client.send(b"x")
            except OSError as error:
                return errno.errorcode[error.errno or 0]
            time.sleep(0.05)
    return "silence"


def knock(host: str, port: int) -> str:
    """How a connection is refused, and whether at once."""
    begun = time.monotonic()
    try:
        socket.create_connection((host, port), 3).close()
    except TimeoutError:
        return "silence"
    except OSError as error:
        at_once = time.monotonic() - begun < 0.9  # before a SYN is sent again
        return f"{errno.errorcode[error.errno or 0]}{'' if at_once else ' late'}"
    return "connected"


def burst(host: str, port: int, count: int) -> str:
    """Datagrams of one flow, as fast as they go."""
    with socket.socket(
        socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM
    ) as client:
        client.connect((host, port))
        for _ in range(count):
            client.send(bytes(200))
    return "done"


def few(host: str, port: int, count: int) -> str:
    """One datagram of each of several flows; says when they are sent, then how many were answered."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    clients = [socket.socket(family, socket.SOCK_DGRAM) for _ in range(count)]
    for client in clients:
        client.connect((host, port))
        client.send(b"few")
    print("sent", flush=True)
    waiting = set(clients)
    while waiting:
        ready, _, _ = select.select(list(waiting), (), (), 4)
        if not ready:
            break
        waiting -= set(ready)
    return str(count - len(waiting))


def touch(host: str, port: int) -> str:
    """How a connection that the kernel may have accepted ends, and whether at once."""
    begun, ended = time.monotonic(), "open"
    try:
        with socket.create_connection((host, port), 3) as connection:
            if not connection.recv(1):
                ended = "closed"
    except TimeoutError:
        return "silence"
    except OSError as error:
        ended = errno.errorcode[error.errno or 0]
    return ended if time.monotonic() - begun < 0.9 else f"{ended} late"


def hold(host: str, port: int, count: int) -> str:
    """`many`, which stay open until the end of input."""
    return many(host, port, count, until=lambda said: (print(said, flush=True), sys.stdin.read()))


def many(
    host: str, port: int, count: int, until: Callable[[str], object] = lambda said: None
) -> str:
    """Connections that are all open at once, each with an answer of its own; and what the others heard."""
    resource.setrlimit(resource.RLIMIT_NOFILE, (20_000, 20_000))
    made, family = [], socket.AF_INET6 if ":" in host else socket.AF_INET
    refused: Counter[str] = Counter()
    for first in range(0, count, AT_ONCE):
        wave = [socket.socket(family) for _ in range(min(AT_ONCE, count - first))]
        chooser = selectors.DefaultSelector()
        for connection in wave:
            connection.setblocking(False)
            connection.connect_ex((host, port))
            chooser.register(connection, selectors.EVENT_WRITE)
        while chooser.get_map():
            answered = chooser.select(30)
            if not answered:
                return "a connection was not answered"
            for key, _ in answered:
                chooser.unregister(key.fileobj)
        for connection in wave:
            error = connection.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            if error:
                refused[errno.errorcode[error]] += 1
                connection.close()
            else:
                connection.settimeout(30)
                made.append(connection)
    good = 0
    for number, connection in enumerate(made):
        with contextlib.suppress(OSError):  # the answer says so, too
            connection.sendall(b"%08d" % number)
    for number, connection in enumerate(made):
        connection.settimeout(30)
        try:
            good += connection.recv(8, socket.MSG_WAITALL) == b"%08d" % number
        except ConnectionError as error:
            refused[errno.errorcode[error.errno or 0]] += 1
    words = " ".join([str(good), *(f"{name}:{number}" for name, number in sorted(refused.items()))])
    until(words)
    for connection in made:
        connection.close()
    return words


def poll(host: str, port: int) -> str:
    """How a connection ends that is used again and again, a minute at most; says when it was answered first."""
    with socket.create_connection((host, port), 3) as connection:
        try:
            for number in range(600):
                connection.sendall(b"x")
                if not connection.recv(1):
                    return "closed"
                if not number:
                    print("answered", flush=True)
                time.sleep(0.1)
        except OSError as error:
            return errno.errorcode.get(error.errno or 0, "silence")
    return "open"


def echo(host: str, _: int) -> str:
    """What a program hears that pings: iputils' own keeps quiet about what `sendto` says."""
    six = ":" in host
    protocol = socket.IPPROTO_ICMPV6 if six else socket.IPPROTO_ICMP
    with socket.socket(
        socket.AF_INET6 if six else socket.AF_INET, socket.SOCK_RAW, protocol
    ) as client:
        client.settimeout(3)
        try:
            client.connect((host, 0))
            request = bytes([128 if six else 8, 0, 0, 0, 0, 7, 0, 1])
            total = ~sum(struct.unpack("!4H", request)) & 0xFFFF  # of ICMPv6 the kernel makes it
            client.send(request[:2] + total.to_bytes(2, "big") + request[4:])
            client.recv(2000)
        except TimeoutError:
            return "silence"
        except OSError as error:
            return errno.errorcode[error.errno or 0]
    return "answered"


def raw(host: str, *packets: str) -> str:
    """Send packets as they are (IPv4 headers included), or IPv6 payload by payload."""
    if ":" in host:
        sent = 0
        for text in packets:
            protocol, _, body = text.partition(":")
            with socket.socket(socket.AF_INET6, socket.SOCK_RAW, int(protocol)) as sock:
                sock.sendto(bytes.fromhex(body), (host, 0))
                sent += 1
        return str(sent)
    with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW) as sock:
        for text in packets:
            sock.sendto(bytes.fromhex(text), (host, 0))
    return str(len(packets))


WORK: dict[str, Callable[..., str]] = {
    "stream": stream, "datagrams": datagrams, "chatter": chatter, "knock": knock, "touch": touch, "burst": burst, "few": few, "many": many, "hold": hold,
    "echo": echo, "poll": poll,
}  # fmt: skip


def main() -> None:
    """One role, by arguments."""
    role, *rest = sys.argv[1:]
    if role == "serve":
        serve()
    elif role == "raw":
        print(raw(*rest))
    else:
        host, *numbers = rest
        print(WORK[role](host, *map(int, numbers)))


if __name__ == "__main__":
    main()
