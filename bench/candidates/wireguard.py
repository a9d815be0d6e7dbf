"""wireguard-go as hub and spoke: the hub in `r` decrypts, the kernel there routes, the hub encrypts again."""

from bench.candidates.base import Candidate, first_line
from bench.errors import BenchError
from bench.path import IPERF_PORT, NAMES, ROUTER, SERVER_PORT, forward, ip
from deploy.demo.plant import until

NET = "10.81.0"
HOSTS = {"r": 1, "a": 2, "b": 3}
PORT = 51820


class WireGuard(Candidate):
    name = "wireguard-go"
    what = "wireguard-go in a, r and b as hub and spoke: decrypted and encrypted again in r"
    needs: tuple[str, ...] = ("wireguard-go", "wg")

    def start(self) -> None:
        self.address = self.datagram_address = (f"{NET}.{HOSTS['b']}", SERVER_PORT)
        self.iperf_address = (f"{NET}.{HOSTS['b']}", IPERF_PORT)
        public = {}
        for side in HOSTS:
            secret = self.call("wg", "genkey").strip()
            self.write(f"{side}.key", secret + "\n")
            public[side] = self.call("wg", "pubkey", text=secret).strip()
            self.run(side, side, "wireguard-go", "--foreground", self.interface(side))
        for side, host in HOSTS.items():
            self.when_up(side)
            self.call("wg", "set", self.interface(side), *self.settings(side, public))
            ip("-n", NAMES[side], "address", "add", f"{NET}.{host}/24", "dev", self.interface(side))
            ip("-n", NAMES[side], "link", "set", self.interface(side), "mtu", "1420", "up")
        forward(self.interface("r"))

    def interface(self, side: str) -> str:
        """Its name; the control sockets of all namespaces lie in one folder, so names differ."""
        return f"fbwg{side}"

    def when_up(self, side: str) -> None:
        """Wait for the control socket."""

        def answers() -> bool:
            try:
                self.call("wg", "show", self.interface(side))
            except BenchError:
                return False
            return True

        try:
            until(answers, 10, f"wireguard-go in {side}")
        except TimeoutError as error:
            raise BenchError(str(error)) from None

    def settings(self, side: str, public: dict[str, str]) -> list[str]:
        """The rest of `wg set` for one host."""
        key = ["private-key", str(self.folder / f"{side}.key")]
        if side != "r":
            peer = [
                "peer",
                public["r"],
                "endpoint",
                f"{ROUTER}:{PORT}",
                "allowed-ips",
                f"{NET}.0/24",
            ]
            return [*key, *peer, "persistent-keepalive", "25"]
        spokes = [
            word
            for spoke in "ab"
            for word in ("peer", public[spoke], "allowed-ips", f"{NET}.{HOSTS[spoke]}/32")
        ]
        return [*key, "listen-port", str(PORT), *spokes]

    def version(self) -> str:
        return first_line(["wireguard-go", "--version"])
