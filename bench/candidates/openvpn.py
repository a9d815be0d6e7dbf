"""OpenVPN with its server in `r`, which passes packets from client to client inside the process."""

import shutil

from bench.candidates.base import Candidate, first_line
from bench.candidates.certificates import make_authority
from bench.path import IPERF_PORT, ROUTER, SERVER_PORT

NET = "10.82.0"
HOSTS = {"a": 2, "b": 3}
COMMON = """dev-type tun
topology subnet
proto udp
dh none
ca ca.pem
data-ciphers AES-256-GCM
tls-version-min 1.3
persist-key
persist-tun
verb 1
"""


class OpenVpn(Candidate):
    name = "openvpn"
    what = (
        "OpenVPN over UDP, AES-256-GCM; the server in r with client-to-client, clients in a and b"
    )
    needs: tuple[str, ...] = ("openvpn",)

    def start(self) -> None:
        self.address = self.datagram_address = (f"{NET}.{HOSTS['b']}", SERVER_PORT)
        self.iperf_address = (f"{NET}.{HOSTS['b']}", IPERF_PORT)
        make_authority(self.folder, {"r": True, "a": False, "b": False})
        places = self.folder / "places"
        places.mkdir(exist_ok=True)
        for side, host in HOSTS.items():
            (places / side).write_text(f"ifconfig-push {NET}.{host} 255.255.255.0\n")
        server = f"server {NET}.0 255.255.255.0\nlocal {ROUTER}\nport 1194\nclient-to-client\n"
        self.program("r", server + "client-config-dir places\nkeepalive 10 60\n")
        for side in HOSTS:
            dials = f"client\nremote {ROUTER} 1194\nnobind\nremote-cert-tls server\n"
            self.program(side, dials + "connect-retry 1 2\n")

    def program(self, side: str, own: str) -> None:
        """Start one process; it reads its files from the candidate's folder."""
        text = f"dev fbov{side}\ncert {side}.pem\nkey {side}.key\n{COMMON}{own}"
        command = shutil.which("openvpn") or "openvpn"
        self.run(side, side, command, "--config", self.write(f"{side}.conf", text))

    def version(self) -> str:
        return " ".join(first_line(["openvpn", "--version"]).split()[:2])
