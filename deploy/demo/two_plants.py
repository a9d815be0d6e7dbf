"""`make demo-plant`: two plants with the same addresses, and an HMI in one that reads the PLC of the other.

Network namespaces stand for the machines, so it needs root. No device has any software of Ferrule on it, none is given
another address, and no switch is touched: there is one box in each plant. Every step is checked; exit code 0 only when
each held. `KEEP=1` leaves everything running and says how to look around.
"""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from deploy.demo.plant import COMMANDS, CommandFailed, until
from deploy.demo.sites import BOX, HMI, PLC, RESOLVER, SITES, TwoSites
from deploy.demo.story import Story

FIRST = {"north": 100, "south": 900}
"""The first holding register of the PLC of each site."""
VIRTUAL = "10.2.1.10"
"""Where the north knows the PLC of the south."""
STRANGER = "192.168.1.66"
SECONDS = 4.0
"""What is denied fails faster than by a time-out of the HMI, also on a machine that is busy."""


class Panel:
    """The HMI of the north; each poll is a program on a machine without Ferrule."""

    def __init__(self, plant: TwoSites) -> None:
        self._plant = plant
        self.took = 0.0

    def reads(self, host: str, port: int = 502, source: str = "") -> str:
        """The registers in words, or why there are none."""
        command = [sys.executable, "-m", "deploy.demo.hmi", host, str(port), source]
        begun = time.monotonic()
        done = subprocess.run(
            self._plant.on("north-hmi", *command), capture_output=True, text=True, check=False
        )
        self.took = time.monotonic() - begun
        return done.stdout.strip()


def registers(site: str) -> str:
    """What the PLC of a site answers."""
    return " ".join(map(str, range(FIRST[site], FIRST[site] + 10)))


def tell(plant: TwoSites, story: Story) -> None:
    """The story itself."""
    panel = Panel(plant)
    story.chapter(
        "Two plants, north and south, one box in each. Both LANs are 192.168.1.0/24, both PLCs 192.168.1.10."
    )
    story.within(10, "the HMI of the north reads its own PLC over its LAN, as ever",
                 lambda: panel.reads(PLC) == registers("north"))  # fmt: skip

    story.chapter(
        "Say what is there. The north is to know the PLC of the south at an address that is free there."
    )
    for words in (
        f"add asset hmi-north --edge north --address {HMI}",
        f"add asset plc-north --edge north --address {PLC}",
        f"add asset plc-south --edge south --address {PLC}",
        "add service plc-south modbus",
        "add service plc-south ssh",
        f"add intercept north plc-south --address {VIRTUAL}",
    ):
        plant.ferrule(*words.split())
        print(f"         ferrule {words}")
    until(lambda: caught(plant), 20, "the box of the north to intercept")

    story.chapter("The HMI reads the PLC of the south. Nobody has allowed that.")
    story.step("it is refused", (said := panel.reads(VIRTUAL)) != registers("south"), said)
    story.step(
        "at once", panel.took < SECONDS, f"{panel.took * 1000:.0f} ms with the program's start"
    )
    story.within(5, "the attempt is in the audit", lambda: denied(plant, who="hmi-north"))
    record = (denied(plant, who="hmi-north") or [{}])[-1]
    story.step("it says who, where to and why", record.get("reason"),
               f"{record.get('who')} → {record.get('address')}: {record.get('reason')}")  # fmt: skip

    story.chapter("ferrule allow hmi-north to plc-south over modbus for 2h")
    plant.ferrule(*["allow", "hmi-north", "to", "plc-south", "over", "modbus", "for", "2h"])
    story.within(5, f"the HMI reads the PLC of the south at {VIRTUAL}",
                 lambda: panel.reads(VIRTUAL) == registers("south"))  # fmt: skip
    story.step(f"and as plc-south.mill.internal, from the resolver {RESOLVER} of its box",
               panel.reads("plc-south.mill.internal") == registers("south"),
               f"{panel.took * 1000:.0f} ms")  # fmt: skip
    story.step("and still its own at the same address as ever", panel.reads(PLC) == registers("north"),
               f"both PLCs are {PLC}")  # fmt: skip
    ping = plant.on("north-hmi", "ping", "-c", "1", "-W", "5", VIRTUAL)
    story.step("ping is answered by the PLC itself",
               subprocess.run(ping, capture_output=True, check=False).returncode == 0)  # fmt: skip
    story.within(5, "the audit has it", lambda: opened(plant))
    known = (opened(plant) or [{}])[-1]
    story.step("and knows the way", str(known.get("address")).startswith(PLC),
               f"hmi-north asserted by {known.get('via')}, "
               f"{known.get('address')} in the {known.get('node')}")  # fmt: skip

    story.chapter("What nobody has allowed is refused at once, and audited:")
    story.step("another protocol of the same PLC", (said := panel.reads(VIRTUAL, 22)) == "Connection refused",
               f"ssh: {said}")  # fmt: skip
    plant.machines.ip("north-hmi", "addr", "add", f"{STRANGER}/24", "dev", "eth0")
    said = panel.reads(VIRTUAL, 502, STRANGER)
    story.step("a device that nobody knows", said == "Connection refused", f"{STRANGER}: {said}")
    story.within(5, "the audit knows its address",
                 lambda: any(STRANGER in one["reason"] for one in denied(plant)))  # fmt: skip
    program = [
        *plant.machines.inside("north-box"),
        sys.executable,
        "-m",
        "deploy.demo.hmi",
        VIRTUAL,
    ]
    said = subprocess.run(program, capture_output=True, text=True, check=False).stdout.strip()
    story.step("a program on the box itself", said == "Connection refused", said)
    way = plant.machines.inside("south-plc")
    said = subprocess.run([*way, sys.executable, "-m", "deploy.demo.hmi", BOX], capture_output=True,
                          text=True, check=False).stdout.strip()  # fmt: skip
    story.step(
        "the south gets nothing from its own box: nothing is intercepted there",
        said == "Connection refused",
        said,
    )

    story.chapter("ferrule kill identity hmi-north")
    plant.ferrule("kill", "identity", "hmi-north", "--reason", "drill", "--yes")
    story.within(5, "the HMI is cut off", lambda: panel.reads(VIRTUAL) == "Connection refused")
    story.step("its own PLC is none of our business", panel.reads(PLC) == registers("north"))
    plant.ferrule("restore", "identity", "hmi-north", "--reason", "drill over")
    story.within(5, "restored: it reads again", lambda: panel.reads(VIRTUAL) == registers("south"))

    story.chapter("The controller dies (SIGKILL).")
    plant.kill("controller")
    story.step("the HMI goes on reading", panel.reads(VIRTUAL) == registers("south"))
    plant.start_controller()
    plant.connected()
    verdict = plant.json("audit", "verify")
    story.step("ferrule audit verify", verdict["ok"],
               f"{verdict['records']} records, signed by {verdict['signed_by']}")  # fmt: skip


def caught(plant: TwoSites) -> bool:
    """Whether the box of the north intercepts."""
    return (plant.local("north").get("interception") or {}).get("mode") == "tun"


def opened(plant: TwoSites) -> list[dict[str, Any]]:
    """Circuits that the HMI of the north was allowed to open."""
    records = plant.json("audit", "search", "--who", "hmi-north", "--outcome", "allowed")
    return [record for record in records if record["event"] == "circuit.open"]


def denied(plant: TwoSites, *, who: str = "") -> list[dict[str, Any]]:
    """Attempts that were denied."""
    words = ["--who", who] if who else []
    records = plant.json("audit", "search", *words, "--outcome", "denied")
    return [record for record in records if record["event"] == "circuit.open"]


def look_around(plant: TwoSites) -> None:
    """Leave everything running until Ctrl-C, and say what to try."""
    operator, panel = " ".join(plant.prefix("operator")), " ".join(plant.on("north-hmi")[:4])
    print(f"\nEverything is running; its folder is {plant.folder}. In another terminal, as root:\n")
    print(f"  export FERRULE_HOME={plant.folder}/home PATH={COMMANDS}:$PATH")
    for command in ("ferrule status", "ferrule sessions", "ferrule audit tail"):
        print(f"  {operator} {command}")
    print(f"  {panel} ping {VIRTUAL}      # on the HMI of the north")
    print(f"  {panel} python -m deploy.demo.hmi {VIRTUAL}")
    print("\nCtrl-C ends everything.", flush=True)
    try:
        signal.pause()
    except KeyboardInterrupt:
        print()


def missing() -> str:
    """What this machine lacks for it, in a sentence; empty when it lacks nothing."""
    if os.geteuid() != 0:
        return "make demo-plant makes network namespaces and interfaces, which needs root: sudo make demo-plant"
    for program, package in (("ip", "iproute2"), ("sysctl", "procps"), ("ping", "iputils-ping")):
        if shutil.which(program) is None:
            return f"make demo-plant needs {program}: apt-get install {package}"
    if not Path("/dev/net/tun").exists():
        return "make demo-plant needs TUN, and /dev/net/tun is not there: modprobe tun"
    return ""


def main() -> int:
    """Run the demo; the exit code."""
    if lacks := missing():
        print(lacks, file=sys.stderr)
        return 1
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("stopped"))  # all of it ends with us
    story = Story()
    plant = TwoSites()
    devices: list[subprocess.Popen[bytes]] = []
    try:
        story.chapter("Building two plants and a DMZ from nothing, as network namespaces.")
        with plant:
            for site in SITES:
                command = [
                    sys.executable,
                    "-m",
                    "deploy.demo.devices",
                    "502",
                    PLC,
                    str(FIRST[site]),
                ]
                where = plant.machines.inside(f"{site}-plc")
                devices.append(subprocess.Popen([*where, *command]))
            tell(plant, story)
            if os.environ.get("KEEP"):
                look_around(plant)
    except (CommandFailed, TimeoutError) as error:
        story.step(str(error), held=False)
    except KeyboardInterrupt:
        story.step("it was interrupted", held=False)
    finally:
        for device in devices:
            device.kill()
            device.wait()
    return story.end()


if __name__ == "__main__":
    sys.exit(main())
