"""Verified grants: a signature is checked once, its signer each time; a table that strangers cannot fill."""

import pytest

from overlay.errors import DecodeError, TrustError
from overlay.identity.certificate import Leaf
from overlay.identity.trust import Credentials, open_signed, sign_body
from overlay.policy import verified_grants
from overlay.policy.grant import Grant
from overlay.policy.verified_grants import VerifiedGrants
from tests.support.pki import NOW, Pki

PKI = Pki()
CONTROLLER, EDGE = PKI.controller(), PKI.edge("edge-a")
DAY = 86_400_000_000


def grant(signer: Credentials = CONTROLLER, epoch: int = 1) -> bytes:
    body = Grant(
        id=b"g" * 16, conduit="c1", caller_key=EDGE.key.key_id, who="hmi-a", via="edge-a",
        service="plc-b.modbus", asset="plc-b", hosts=("edge-b",), transport=0, integrity=0,
        not_before=NOW, refresh_by=NOW + DAY, hold_until=NOW + DAY, end=0, max_session=0,
        who_zones=(), asset_zones=(), epoch=epoch,
    )  # fmt: skip
    return sign_body(body, signer.key, PKI.anchor, signer.chain)


def table(revoked: list[Leaf] | None = None) -> VerifiedGrants:
    void = [] if revoked is None else revoked

    def admit(leaf: Leaf) -> None:
        if leaf in void:
            raise TrustError("revoked")

    return VerifiedGrants(PKI.signers(), admit)


def test_a_signature_is_checked_once(monkeypatch):
    checked: list[int] = []

    def count(*arguments, **options):
        checked.append(1)
        return open_signed(*arguments, **options)

    monkeypatch.setattr(verified_grants, "open_signed", count)
    grants, data = table(), grant()
    assert grants.open(data, NOW) == grants.open(data, NOW + DAY)
    assert len(checked) == 1


def test_the_limit_is_filled_and_the_oldest_gives_way(monkeypatch):
    monkeypatch.setattr(verified_grants, "VERIFIED_GRANTS", 5)
    grants = table()
    for number in range(12):
        grants.open(grant(epoch=number), NOW)
    assert len(grants) == 5


@pytest.mark.parametrize("data", [b"", b"\xc1", grant(EDGE), grant(Pki("other").controller())])
def test_what_no_controller_of_this_plant_signed_is_refused_and_takes_no_room(data: bytes):
    grants = table()
    with pytest.raises((DecodeError, TrustError)):
        grants.open(data, NOW)
    assert len(grants) == 0


def test_a_known_grant_of_a_controller_that_was_revoked_since_is_refused():
    revoked: list[Leaf] = []
    grants, data = table(revoked), grant()
    grants.open(data, NOW)
    assert CONTROLLER.leaf is not None
    revoked.append(CONTROLLER.leaf)
    with pytest.raises(TrustError, match="revoked"):
        grants.open(data, NOW)


def test_a_known_grant_is_refused_once_its_signers_certificate_has_ended():
    grants, data = table(), grant()
    grants.open(data, NOW)
    with pytest.raises(TrustError, match="expired"):
        grants.open(data, NOW + 60 * DAY)
