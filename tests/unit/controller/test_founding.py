"""`init` makes a plant or nothing; `run` opens it again or says what is wrong."""

import shutil
from pathlib import Path

import pytest
from sqlalchemy import text

from controller import founding
from controller.store.store import StoreError
from overlay.errors import FerruleError, InputError
from tests.support.controllers import ADMIN, PASSWORD, Controller, HandWorld
from tests.support.pki import NOW, SECOND


async def found(directory: Path, **change: str) -> None:
    options = {"plant": "mill", "admin": "ada", "password": PASSWORD} | change
    await founding.found(HandWorld(), directory, **options)


async def test_a_plant_is_made_and_opened_again(tmp_path: Path):
    await found(tmp_path / "new" / "c", plant="Mill", admin="Ada", name="ctl", zone="Europe/Berlin")
    assert (tmp_path / "new" / "c").stat().st_mode & 0o777 == 0o700
    actions, store = await founding.reopen(HandWorld(), tmp_path / "new" / "c")
    assert (actions.plant, actions.name, actions.time_zone) == ("mill", "ctl", "Europe/Berlin")
    await actions.start("1")
    assert actions.boot == 1
    assert (await actions.audit_verify(ADMIN)).ok
    await actions.stop()
    await store.close()
    actions, store = await founding.reopen(HandWorld(), tmp_path / "new" / "c")
    await actions.start("1")
    assert actions.boot == 2
    events = [one.event for one in await actions.audit_tail(ADMIN)]
    assert events == ["node.start", "node.stop", "node.start"]
    await store.close()


async def test_an_empty_log_verifies(tmp_path: Path):
    await found(tmp_path / "c")
    actions, store = await founding.reopen(HandWorld(), tmp_path / "c")
    verified = await actions.audit_verify(ADMIN)
    assert (verified.ok, verified.records, verified.first) == (True, 0, None)
    await store.close()


@pytest.mark.parametrize(
    ("change", "error", "named"),
    [
        ({"plant": "under_score"}, InputError, "under_score"),
        ({"plant": ""}, InputError, "plant"),
        ({"admin": "a_b"}, InputError, "a_b"),
        ({"admin": "controller"}, InputError, "controller"),
        ({"password": "short"}, InputError, "password"),
        ({"store": "nonsense://"}, FerruleError, "nonsense"),
        ({"store": "postgresql://nobody@127.0.0.1:1/x"}, FerruleError, "reached"),
        ({"zone": "Nowhere/City"}, InputError, "Nowhere/City"),
        ({"name": "a_b"}, InputError, "a_b"),
    ],
)
async def test_what_cannot_be_made_leaves_nothing(tmp_path: Path, change, error, named):
    with pytest.raises(error, match=named):
        await found(tmp_path / "c", **change)
    assert list(tmp_path.iterdir()) == []


async def test_a_folder_that_exists_is_not_touched(tmp_path: Path):
    (tmp_path / "c").mkdir()
    (tmp_path / "c/file").write_text("mine")
    with pytest.raises(FerruleError, match="exists already"):
        await found(tmp_path / "c")
    assert [path.name for path in tmp_path.rglob("*")] == ["c", "file"]


async def test_a_store_that_is_not_empty_is_not_touched(tmp_path: Path):
    await found(tmp_path / "c")
    url = f"sqlite:///{tmp_path / 'c' / 'store.sqlite'}"
    before = (tmp_path / "c" / "store.sqlite").read_bytes()
    with pytest.raises(FerruleError, match="not empty"):
        await found(tmp_path / "d", store=url)
    assert not (tmp_path / "d").exists()
    assert (tmp_path / "c" / "store.sqlite").read_bytes() == before


async def test_a_full_disk_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    world = HandWorld()

    async def full(path: Path, _data: bytes) -> None:
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr(world.disk, "replace", full)
    with pytest.raises(OSError, match="No space left"):
        await founding.found(world, tmp_path / "c", "mill", "ada", PASSWORD)
    assert list(tmp_path.iterdir()) == []


async def test_a_folder_that_is_none_is_said(tmp_path: Path):
    with pytest.raises(FerruleError, match="init"):
        await founding.reopen(HandWorld(), tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("how", ["cut", "scrambled", "missing"])
@pytest.mark.parametrize("name", ["controller.json", "store.sqlite"])
async def test_a_damaged_file_is_named(made: Controller, name: str, how: str):
    await made.store.close()
    path = made.directory / name
    good = path.read_bytes()
    if how == "missing":
        path.unlink()
    else:
        path.write_bytes(good[: len(good) // 2] if how == "cut" else good[::-1])
    with pytest.raises(FerruleError) as caught:
        await founding.reopen(HandWorld(), made.directory)
    assert name in str(caught.value) or (name, how) == ("controller.json", "missing")


async def test_folder_and_store_belong_together(tmp_path: Path):
    await found(tmp_path / "c")
    await found(tmp_path / "d")
    shutil.copy(tmp_path / "c/store.sqlite", tmp_path / "d/store.sqlite")
    with pytest.raises(FerruleError, match="another plant"):
        await founding.reopen(HandWorld(), tmp_path / "d")


async def test_a_store_of_a_newer_version_is_refused(made: Controller):
    async with made.store.write() as session:
        await session.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(FerruleError, match="newer version"):
        await founding.reopen(HandWorld(), made.directory)


async def test_time_goes_on_from_what_was_recorded_last(made: Controller):
    made.pass_(1000)
    await made.actions.audit_verify(ADMIN)
    await made.actions.stop()
    rewound = HandWorld()
    actions, store = await founding.reopen(rewound, made.directory)
    assert actions.now() == NOW + 1000 * SECOND
    await actions.tick()
    events = [one.event for one in await actions.audit_tail(ADMIN)]
    assert events[-1] == "security.clock"
    await actions.tick()
    assert [one.event for one in await actions.audit_tail(ADMIN)] == events  # said once
    await store.close()


def test_the_machines_time_zone_is_one():
    from overlay.policy.times import time_zone

    time_zone(founding.local_zone())


def test_store_errors_are_ferrule_errors():
    assert issubclass(StoreError, FerruleError)
