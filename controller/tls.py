"""The API's TLS: a certificate under the plant's root, made anew at every start and long before it ends."""

import socket
import ssl
from pathlib import Path

from controller import pki
from controller.actions.actions import Actions
from overlay.aio.logs import get_logger
from overlay.aio.world import World

_log = get_logger("controller")


class ApiTls:
    """`context` is what the API listens with; `refresh` keeps its certificate fresh."""

    def __init__(self, world: World, actions: Actions, directory: Path, host: str) -> None:
        self._world = world
        self._actions = actions
        self._directory = directory
        self._hosts = [host, "localhost", "127.0.0.1", "::1", socket.gethostname().lower()]
        self._due = 0
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.minimum_version = ssl.TLSVersion.TLSv1_3

    async def refresh(self) -> None:
        """Make a certificate where there is none of this start, or two thirds of its life are over.

        Raises:
            OSError: its files cannot be written.
        """
        now = self._actions.now()
        if now < self._due:
            return
        for problem in await pki.check_spare_files(self._world, self._directory, self._actions.pki):
            _log.warning("controller.file", text=problem)
        chain, key = await pki.api_certificate(
            self._world, self._actions.pki, self._directory, self._hosts, now
        )
        self.context.load_cert_chain(chain, key)
        self._due = now + pki.API_LIFE * 2 // 3
        _log.info("controller.api_certificate", certificate=str(chain), key=str(key))
