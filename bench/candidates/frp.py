"""frp with a secret proxy (`stcp`): frps in `r`, frpc on both sides, TLS to frps and encryption end to end."""

import hashlib
from pathlib import Path

from bench.candidates.base import Candidate, first_line
from bench.candidates.haproxy import LOCAL
from bench.path import IPERF_PORT, ROUTER, SERVER_PORT

PORT = 7300
VISIT = 7301


class Frp(Candidate):
    name = "frp"
    what = "frps in r, frpc in a and b, `stcp` with TLS to frps and encryption between the two frpc"
    needs: tuple[str, ...] = ("frps", "frpc")

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.address = (LOCAL, VISIT)
        self.iperf_address = (LOCAL, VISIT + 1)

    def start(self) -> None:
        # A secret for one run on one machine, which nobody else reaches.
        secret = hashlib.sha256(str(self.folder).encode()).hexdigest()
        login = f'auth.method = "token"\nauth.token = "{secret}"\nlog.level = "warn"\n'
        self.write("r.toml", f'bindAddr = "{ROUTER}"\nbindPort = {PORT}\n{login}')
        dials = f'serverAddr = "{ROUTER}"\nserverPort = {PORT}\nloginFailExit = false\n{login}'
        hosts, visits = dials, dials
        for number, (name, port) in enumerate((("server", SERVER_PORT), ("iperf", IPERF_PORT))):
            hosts += (
                f'[[proxies]]\nname = "{name}"\ntype = "stcp"\nsecretKey = "{secret}"\n'
                f'localIP = "{LOCAL}"\nlocalPort = {port}\ntransport.useEncryption = true\n'
            )
            visits += (
                f'[[visitors]]\nname = "{name}-visitor"\ntype = "stcp"\nserverName = "{name}"\n'
                f'secretKey = "{secret}"\nbindAddr = "{LOCAL}"\nbindPort = {VISIT + number}\n'
                "transport.useEncryption = true\n"
            )
        self.write("b.toml", hosts)
        self.write("a.toml", visits)
        for side, program in (("r", "frps"), ("b", "frpc"), ("a", "frpc")):
            self.run(side, side, program, "-c", f"{side}.toml")

    def version(self) -> str:
        return "frp " + first_line(["frps", "--version"])
