"""`make demo`: the first poll. Denied, allowed by one sentence, cut off by kill switches; the audit trail verifies.

Real processes on loopback, a real Modbus client and server. Every step is checked; exit code 0 only when each held.
`KEEP=1` leaves the plant running and says how to look around.
"""

import logging
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from deploy.demo.devices import REGISTERS, Hmi
from deploy.demo.plant import COMMANDS, CommandFailed, Plant
from deploy.demo.ports import free_port
from deploy.demo.story import Story

AT_ONCE = 4.0
"""Seconds: what is denied fails faster than by a time-out of the HMI, also on a machine that is busy."""


def tell(plant: Plant, story: Story, plc_port: int) -> None:
    """The story itself."""
    story.chapter(
        "A controller, a router and two edges are running; each proved who it is with a certificate."
    )
    status = plant.json("status")
    connected = [
        node["name"]
        for kind in ("routers", "edges")
        for node in status[kind]
        if node["state"] == "connected"
    ]
    story.step("everybody is connected", len(connected) == 3, ", ".join(connected))
    listen = plant.offer(plc_port)
    hmi = Hmi(listen)

    story.chapter("hmi-a polls plc-b. Nobody has allowed that.")
    begun = time.monotonic()
    poll = hmi.poll()
    story.step(
        "the poll is refused at once",
        poll.registers is None and time.monotonic() - begun < AT_ONCE,
        poll.problem,
    )
    story.within(5, "the attempt is in the audit", lambda: attempts(plant, "denied"))
    record = (attempts(plant, "denied") or [{}])[-1]
    story.step(
        "it says who, where to and why",
        record.get("who") == "hmi-a" and record.get("address") and record.get("reason"),
        f"{record.get('who')} → {record.get('address')}: {record.get('reason')}",
    )
    answer = plant.json("why", "hmi-a", "plc-b", "modbus")
    story.step(
        "`ferrule why` explains it",
        not answer["allowed"],
        "; ".join(c["text"] for c in answer["checks"] if not c["ok"]),
    )

    story.chapter("ferrule allow hmi-a to plc-b over modbus for 2h")
    conduit = plant.json("allow", "hmi-a", "to", "plc-b", "over", "modbus", "for", "2h")["id"]
    story.within(5, "the next poll reads the PLC", lambda: hmi.poll().registers == REGISTERS)
    story.within(5, "the session is listed", plant.live)
    session = (plant.live() or [{}])[-1]
    story.step(
        "sealed end to end with a post-quantum hybrid",
        "MLKEM768" in str(session.get("key_exchange")),
        str(session.get("key_exchange")),
    )
    story.step(
        "through the router",
        session.get("path") == ["edge-a", "router-1", "edge-b"],
        " → ".join(session.get("path", [])),
    )

    cuts: tuple[tuple[str, tuple[str, ...], bool], ...] = (
        ("the session", ("session", str(session.get("id"))), False),
        ("hmi-a", ("identity", "hmi-a"), True),
        ("the service", ("service", "plc-b.modbus"), True),
        ("the whole plant", ("plant",), True),
    )
    for what, target, restore in cuts:
        story.chapter(f"ferrule kill {' '.join(target)}")
        hmi.poll()
        plant.ferrule("kill", *target, "--reason", "drill", "--yes")
        story.within(3, f"{what} is cut off", lambda: not plant.live())
        if restore:
            story.step("new polls are refused", hmi.poll().registers is None)
            plant.ferrule("restore", *target, "--reason", "drill over")
        story.within(
            5,
            "polls again" if restore else "a new poll works: only the session was killed",
            lambda: hmi.poll().registers == REGISTERS,
        )

    story.chapter(
        "Somebody on site pulls the switch of edge-b. No controller is asked; it holds over a restart."
    )
    plant.run("ferrule-edge", "kill", "--dir", plant.path("edge-b"), "--reason", "maintenance")
    story.step("the poll is refused", hmi.poll().registers is None)
    plant.terminate("edge-b")
    plant.start_edge("edge-b")
    plant.connected()
    story.step("still refused after a restart of edge-b", hmi.poll().registers is None)
    plant.run("ferrule-edge", "restore", "--dir", plant.path("edge-b"))
    story.within(5, "restored on site: polls again", lambda: hmi.poll().registers == REGISTERS)

    story.chapter("The controller dies (SIGKILL).")
    plant.kill("controller")
    story.step("the running connection goes on", hmi.poll().registers == REGISTERS)
    hmi.close()
    story.step("a new connection opens", hmi.poll().registers == REGISTERS)
    plant.start_controller()
    plant.connected()

    story.chapter(f"ferrule deny {conduit}")
    plant.ferrule("deny", conduit)
    story.within(3, "the poll is refused", lambda: hmi.poll().registers is None)
    hmi.close()

    story.chapter("The audit trail")
    verdict = plant.json("audit", "verify")
    story.step(
        "ferrule audit verify",
        verdict["ok"],
        f"{verdict['records']} records, signed by {verdict['signed_by']}",
    )
    export = plant.path("audit.jsonl")
    plant.ferrule("audit", "export", export)
    story.step(
        "the export verifies offline",
        plant.call("ferrule", "audit", "verify", "--file", export).returncode == 0,
    )
    lines = Path(export).read_text().splitlines()
    forged = Path(plant.path("forged.jsonl"))
    forged.write_text("\n".join(lines[: len(lines) // 2] + lines[len(lines) // 2 + 1 :]) + "\n")
    story.step(
        "with one record cut out it does not",
        plant.call("ferrule", "audit", "verify", "--file", str(forged)).returncode == 1,
    )


def attempts(plant: Plant, outcome: str) -> list[dict[str, object]]:
    """The recorded attempts to open plc-b.modbus with this outcome."""
    records = plant.json("audit", "search", "--service", "plc-b.modbus", "--outcome", outcome)
    return [record for record in records if record["event"] == "circuit.open"]


def look_around(plant: Plant, listen_hint: int) -> None:
    """Leave the plant running until Ctrl-C, and say what to try."""
    print(f"\nThe plant is running; its folder is {plant.folder}. In another terminal:\n")
    print(f"  export FERRULE_HOME={plant.folder}/home PATH={COMMANDS}:$PATH")
    for command in (
        "ferrule status",
        "ferrule allow hmi-a to plc-b over modbus for 1h",
        "ferrule why hmi-a plc-b modbus",
        "ferrule audit tail",
    ):
        print(f"  {command}")
    print(f"\nThe PLC listens on 127.0.0.1:{listen_hint}; `ferrule ls listener` says where edge-a")
    print("offers it. Ctrl-C ends everything.")
    try:
        signal.pause()
    except KeyboardInterrupt:
        print()


def main() -> int:
    """Run the demo; the exit code."""
    logging.getLogger("pymodbus").setLevel(logging.CRITICAL)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("stopped"))  # the plant ends with us
    story = Story()
    plc_port = free_port()
    plc = subprocess.Popen([sys.executable, "-m", "deploy.demo.devices", str(plc_port)])
    plant = Plant()
    try:
        story.chapter("Building a plant from nothing: five commands and four programs.")
        with plant:
            tell(plant, story, plc_port)
            if os.environ.get("KEEP"):
                look_around(plant, plc_port)
    except (CommandFailed, TimeoutError) as error:
        story.step(str(error), held=False)
    except KeyboardInterrupt:
        story.step("it was interrupted", held=False)
    finally:
        plc.terminate()
        plc.wait()
    return story.end()


if __name__ == "__main__":
    sys.exit(main())
