"""What the doctor says of a host: each finding, both ways."""

import pytest

from edge import doctor
from edge.doctor import Finding

DROPS = """table inet filter {
	chain input {
		type filter hook input priority filter; policy drop;
		ct state established,related accept
	}
	chain forward {
		type filter hook forward priority filter; policy accept;
	}
}
"""


@pytest.mark.parametrize(
    ("good", "bad", "words"),
    [
        (
            doctor.capability("Name:\tx\nCapEff:\t0000000000001000\n"),
            doctor.capability("CapEff:\t0000000000000fff\n"),
            "CAP_NET_ADMIN is missing",
        ),
        (
            doctor.device(there=True, usable=True),
            doctor.device(there=False, usable=False),
            "modprobe",
        ),
        (doctor.device(there=True, usable=True), doctor.device(there=True, usable=False), "access"),
        (
            doctor.routes(
                [("0.0.0.0/0", "eth0"), ("192.168.1.0/24", "eth0"), ("fd00::/64", "eth0")]
            ),
            doctor.routes([("100.100.100.100/32", "tailscale0")]),
            "choose another pool",
        ),
        (
            doctor.default_routes(["eth0"]),
            doctor.default_routes(["eth0", "wwan0"]),
            "eth0 and wwan0",
        ),
        (doctor.forwarding("1", "0"), doctor.forwarding("0", "0"), "ip_forward=1"),
        (doctor.reverse_path("1", "0"), doctor.reverse_path("1", "1"), "wg-quick"),
        (doctor.firewall(""), doctor.firewall(DROPS), "input iifname ferrule0 accept"),
        (
            doctor.receive_offload("generic-receive-offload: on\n", "eth0"),
            doctor.receive_offload("generic-receive-offload: off\n", "eth0"),
            "ethtool -K eth0 gro on",
        ),
    ],
)
def test_each_finding_says_what_to_do(good: Finding, bad: Finding, words: str):
    assert good.ok
    assert not bad.ok
    assert words in bad.text
    assert good.check == bad.check


@pytest.mark.parametrize(
    ("mode", "needed"),
    [("tun", "forward oifname ferrule7 accept"), ("tproxy", "input meta mark 0x4652"),
     ("redirect", "input ct status dnat accept")],
)  # fmt: skip
def test_a_firewall_is_told_what_the_mode_and_the_interface_need(mode: str, needed: str):
    subject = doctor.Subject("ferrule7", modes=(mode,))
    drops = DROPS.replace("policy accept", "policy drop").replace(
        "ct state", "tcp dport { 22, 80 } accept\n\t\tct state"
    )
    assert needed in doctor.firewall(drops, subject).text
    assert doctor.firewall(DROPS.replace("policy drop", "policy accept"), subject).ok


def test_routes_in_each_pool_of_the_edge_are_found():
    taken = [("100.100.0.0/16", "eth0"), ("fd00:7::/64", "eth0")]
    assert doctor.routes(taken, ("198.18.0.0/16", "fd00:8::/64")).ok
    assert "fd00:7::/64 by eth0" in doctor.routes(taken, ("198.18.0.0/16", "fd00:7::/48")).text


def test_what_stands_against_what_is_assigned_is_said():
    assert doctor.intercepts(()).ok
    assert doctor.intercepts(("10.0.0.1 is the address of a router",)).text.endswith("a router")


def test_a_firewall_with_a_rule_for_the_interface_is_fine():
    assert doctor.firewall(DROPS.replace("ct state", 'iifname "ferrule0" accept\n\t\tct state')).ok


async def test_this_machine_is_examined_whatever_it_has():
    found = await doctor.examine()
    assert {one.check for one in found} >= {
        "capability",
        "device",
        "routes",
        "forwarding",
        "firewall",
    }
