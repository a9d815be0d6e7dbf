"""stunnel with certificates on both sides: end to end through a plain relay, or anew on each hop."""

import shutil

from bench.candidates.base import Candidate, first_line
from bench.candidates.certificates import make_authority
from bench.candidates.haproxy import LOCAL, configuration
from bench.path import FAR, ROUTER, SERVER_PORT

PROGRAM = "stunnel4" if shutil.which("stunnel") is None else "stunnel"


def service(name: str, listen: str, to: str, certificate: str, *, dials: bool) -> str:
    """One section of a configuration; `dials`: its TLS side is the one that connects."""
    lines = [
        f"[{name}]",
        f"client = {'yes' if dials else 'no'}",
        f"accept = {listen}",
        f"connect = {to}",
        f"cert = {certificate}.pem",
        f"key = {certificate}.key",
        "CAfile = ca.pem",
        "verifyChain = yes",
        "sslVersionMin = TLSv1.3",
    ]
    return "\n".join(lines) + "\n"


GLOBAL = """foreground = yes
pid =
syslog = no
debug = warning
socket = l:TCP_NODELAY=1
socket = r:TCP_NODELAY=1
"""


class Stunnel(Candidate):
    """What both set-ups share."""

    needs: tuple[str, ...] = (PROGRAM,)
    port: int

    def start(self) -> None:
        self.address = (LOCAL, self.port)
        make_authority(self.folder, {"a": False, "r": True, "r-out": False, "b": True})
        far = f"{FAR}:{self.port}"
        self.program(
            "a", service("out", f"{LOCAL}:{self.port}", f"{ROUTER}:{self.port}", "a", dials=True)
        )
        self.start_router(far)
        self.program("b", service("in", far, f"{LOCAL}:{SERVER_PORT}", "b", dials=False))

    def start_router(self, far: str) -> None:
        raise NotImplementedError

    def program(self, side: str, *services: str) -> None:
        path = self.write(f"{side}.conf", GLOBAL + "".join(services))
        self.run(side, side, PROGRAM, path)

    def version(self) -> str:
        return first_line([PROGRAM, "-version"], 1).split(" on ")[0]


class StunnelEndToEnd(Stunnel):
    name = "stunnel"
    what = "stunnel in a and b, TLS 1.3 with certificates on both sides, a haproxy in r that passes it on"
    needs: tuple[str, ...] = (PROGRAM, "haproxy")
    port = 7101

    def start_router(self, far: str) -> None:
        host, port = far.split(":")
        hop = ((ROUTER, self.port), (host, int(port)))
        path = self.write("r.cfg", configuration([hop]))
        self.run("r", "r", "haproxy", "-f", path)


class StunnelEachHop(Stunnel):
    name = "stunnel each hop"
    what = "stunnel in a, r and b; r ends the TLS of one hop and begins that of the next"
    port = 7201

    def start_router(self, far: str) -> None:
        between = f"{LOCAL}:{self.port + 1}"
        self.program(
            "r",
            service("in", f"{ROUTER}:{self.port}", between, "r", dials=False),
            service("out", between, far, "r-out", dials=True),
        )
