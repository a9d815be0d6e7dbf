"""Which names of assets exist for whom: those that are intercepted here, for principals with a grant for the asset."""

from collections.abc import Callable, Sequence

from edge.intercept.table import Table
from overlay.policy.interception import Address


class GrantedNames:
    """Implements `edge.names.answers.Directory`.

    Args:
        table: what is intercepted now.
        granted: whether a principal may reach anything of an asset now.
        mac: the hardware address that a packed address has on the LAN.
    """

    def __init__(
        self,
        table: Callable[[], Table],
        granted: Callable[[str, str], bool],
        mac: Callable[[bytes], bytes | None],
    ) -> None:
        self._table = table
        self._granted = granted
        self._mac = mac

    def addresses(self, asset: str, source: bytes | None) -> Sequence[Address]:
        """Directory: nothing resolves without a grant."""
        table = self._table()
        found = table.addresses_of(asset)
        return found if found and self._may(table, asset, source) else ()

    def asset_at(self, address: Address, source: bytes | None) -> str:
        """Directory."""
        table = self._table()
        asset = table.asset_at(address)
        return asset if asset and self._may(table, asset, source) else ""

    def _may(self, table: Table, asset: str, source: bytes | None) -> bool:
        if source is None:
            return any(self._granted(entry.who, asset) for entry in table.assets.get(asset, ()))
        address = table.addresses_of(asset)[0]
        who = table.match_asset(address.packed, source, self._mac(source)).who
        return bool(who) and self._granted(who, asset)
