"""What a controller's folder remembers beside its keys. Light to import: a folder that is wrong is said at once."""

from pathlib import Path

import msgspec

from overlay.aio.world import World
from overlay.errors import FerruleError

SETTINGS = "controller.json"


class Settings(msgspec.Struct, forbid_unknown_fields=True):
    """`store` is a URL, or empty for the database in the folder."""

    plant: str
    store: str


async def read_settings(world: World, directory: Path) -> Settings:
    """Read them.

    Raises:
        FerruleError: the folder is not a controller's, or its settings are damaged.
        OSError: they cannot be read.
    """
    data = await world.disk.read(directory / SETTINGS)
    if data is None:
        raise FerruleError(
            f"{directory} is not a controller's folder: make one with ferrule-controller init "
            f"--dir {directory} --plant NAME --admin NAME --admin-password-file FILE."
        )
    try:
        return msgspec.json.decode(data, type=Settings)
    except msgspec.MsgspecError:
        raise FerruleError(
            f"{directory / SETTINGS} is damaged: restore the controller's folder from a backup."
        ) from None
