"""Interception by nftables with real programs through the whole overlay; a killed edge leaves nothing for ever."""

import json
import re
from collections.abc import Iterator
from functools import partial

import pytest

from deploy.demo.plant import COMMANDS, until
from edge.interception import RETRY
from tests.support.namespaces import BOX, HMI, echoing, namespaces
from tests.support.needs import need_program, need_root
from tests.support.tun_plant import PLC, TunPlant

pytestmark = pytest.mark.timeout(400)
LOOKS = (
    "nft list ruleset",
    "ip rule",
    "ip -6 rule",
    "ip -o addr show lo",
    "ip route show table main",
)


@pytest.fixture(scope="module")
def plant() -> Iterator[TunPlant]:
    need_root()
    need_program("nft", "nftables")
    with namespaces() as net, echoing(net), TunPlant(net, "--names", "none") as made:
        yield made


def traces(plant: TunPlant) -> list[str]:
    return [plant.net.run(BOX, *look.split()).stdout for look in LOOKS]


def allowed(plant: TunPlant, host: str) -> bool:
    return plant.client(HMI, "stream", host, 5000, 1) == "same"


def carries_datagrams(plant: TunPlant, host: str) -> bool:
    return plant.client(HMI, "datagrams", host, 7000, 12) == "12"


def knocked(plant: TunPlant, answer: str) -> bool:
    return plant.client(HMI, "knock", PLC[0], 5000) == answer


def runs(plant: TunPlant, mode: str) -> bool:
    return plant.mode() == mode


def doctor(plant: TunPlant, *options: str) -> dict[str, dict[str, object]]:
    """Findings by check, of edge-a's folder."""
    command = [str(COMMANDS / "ferrule-edge"), "doctor", "--json", "--dir"]
    done = plant.net.run(BOX, *command, str(plant.folder / "edge-a"), *options)
    assert done.stdout, done.stderr
    return {one["check"]: one for one in json.loads(done.stdout)}


def behind_a_firewall(plant: TunPlant, policy: str, last: str = "") -> None:
    """What drops stops what is intercepted; the doctor says so, and what it says helps, all of it at once."""
    nft = partial(plant.net.run, BOX, "nft", check=True)
    lets = 'meta l4proto { 1, 58 } accept comment "iifname ferrule0 accept"'
    chains = [
        f"chain {hook} {{\n type filter hook {hook} priority filter; policy {policy};\n {lets}\n {last}\n}}"
        for hook in ("input", "forward", "output")
    ]
    nft("\n".join(("table inet guard {", *chains, "}")))
    try:
        assert plant.client(HMI, "knock", PLC[0], 5000) in ("silence", "EHOSTUNREACH")
        finding = doctor(plant)["firewall"]
        assert finding["ok"] is False, finding
        advice = re.findall(r"`nft (insert rule [^`]+)`", str(finding["text"]))
        for command in advice:
            nft(*command.split())
        until(partial(allowed, plant, PLC[0]), 30, f"traffic with {advice}")
        assert doctor(plant)["firewall"]["ok"]
    finally:
        nft("delete", "table", "inet", "guard")


def test_every_mode_carries_a_device_behind_the_box_and_changes_while_it_runs(plant: TunPlant):
    before = traces(plant)
    plant.intercept("tproxy")
    assert plant.client(HMI, "knock", PLC[0], 5000) == "ECONNREFUSED", "nothing is allowed yet"
    until(lambda: plant.denied(who="hmi-a", service="plc-b.echo"), 10, "the record")
    assert plant.client(HMI, "knock", PLC[0], 23) == "ECONNREFUSED"
    until(lambda: plant.denied(address=f"{PLC[0]}:23"), 10, "the record of what is not there")
    for who, host in zip(("hmi-a", "hmi-6"), PLC, strict=True):
        plant.ferrule("allow", who, "plc-b", "echo")
        plant.ferrule("allow", who, "plc-b", "telemetry")
        until(partial(allowed, plant, host), 15, who)
        assert plant.client(HMI, "stream", host, 5000, 4 << 20) == "same"
        until(partial(carries_datagrams, plant, host), 10, f"datagrams of {who}")
        assert plant.client(HMI, "datagrams", host, 7000, 12, 1472) == "12 1472"
    rules = traces(plant)
    took: list[float] = []
    # At once, and not at the edge's next look at its host, which the first one may meet by chance.
    while len(took) < 8 and min(took[1:], default=RETRY) > RETRY / 2:
        plant.net.run(BOX, "nft", "flush", "ruleset", check=True)
        took.append(until(lambda: traces(plant) == rules, 15, "the rules that somebody flushed"))
    assert min(took[1:]) < RETRY / 2
    found = doctor(plant)
    assert found["intercepts"]["ok"]
    assert found["firewall"]["ok"]
    name = plant.json("ls", "intercept")[0]["name"]
    for mode in ("redirect", "tun", "tproxy"):
        plant.ferrule("set", "intercept", name, f"mode={mode}")
        until(partial(runs, plant, mode), 15, mode)
        for host in PLC:
            until(partial(allowed, plant, host), 10, f"{host} by {mode}")
        behind_a_firewall(plant, "drop")
    behind_a_firewall(plant, "accept", "reject with icmpx admin-prohibited")
    for kill, restore in (
        (("kill", "identity", "hmi-a", "--reason", "smoke"), ("restore", "identity", "hmi-a")),
        (("kill", "service", "plc-b.echo", "--for", "6s", "--reason", "smoke"), ()),
    ):
        plant.ferrule(*kill)
        until(partial(knocked, plant, "ECONNREFUSED"), 10, "the kill, seen by the rules")
        if restore:
            assert knocked(plant, "ECONNREFUSED"), "never accepted and reset"
            plant.ferrule(*restore)
        until(partial(knocked, plant, "connected"), 15, "the HMI again")
    plant.ferrule("allow", "hmi-a", "plc-b", "dead", "--for", "6s")
    until(lambda: plant.client(HMI, "touch", PLC[0], 5002) == "ECONNRESET", 10, "the asset")
    until(lambda: plant.client(HMI, "touch", PLC[0], 5002) == "ECONNREFUSED", 10, "the end")
    plant.programs["edge-a"].kill()
    plant.programs["edge-a"].wait()
    assert traces(plant) != before
    left = doctor(plant)["left behind"]
    assert not left["ok"]
    assert "--repair takes them back" in str(left["text"])
    assert doctor(plant, "--repair")["left behind"]["ok"]
    assert traces(plant) == before
    plant.start_again("edge-a")
    until(partial(allowed, plant, PLC[0]), 30, "the HMI after a restart")
    plant.programs["edge-a"].kill()
    plant.programs["edge-a"].wait()
    plant.start_again("edge-a")
    until(partial(allowed, plant, PLC[0]), 30, "the HMI after another, without repair")
    plant.ferrule("rm", "intercept", name)
    until(lambda: traces(plant) == before, 15, "nothing to be left")
