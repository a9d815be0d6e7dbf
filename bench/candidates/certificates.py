"""Keys and certificates for peers that want an X.509 authority: made anew in each run, thrown away with its folder."""

import datetime
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from bench.candidates.base import SECRETS

LIFE = datetime.timedelta(days=2)


def subject(name: str) -> x509.Name:
    """A name that holds a common name only."""
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def write_key(path: Path, key: ec.EllipticCurvePrivateKey) -> None:
    """PKCS#8, unencrypted, readable by root only."""
    path.touch(mode=SECRETS)
    path.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )


def make_authority(folder: Path, names: dict[str, bool]) -> None:
    """Write ca.pem, and NAME.pem and NAME.key for each name (True: it acts as a server), all P-256, into a folder."""
    now = datetime.datetime.now(datetime.UTC)
    authority_key = ec.generate_private_key(ec.SECP256R1())

    def certificate(
        name: str, key: ec.EllipticCurvePrivateKey, *, server: bool | None
    ) -> x509.Certificate:
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject(name))
            .issuer_name(subject("benchmark"))
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(minutes=5))
            .not_valid_after(now + LIFE)
            .add_extension(
                x509.BasicConstraints(ca=server is None, path_length=None), critical=True
            )
            .add_extension(
                x509.KeyUsage(
                    digital_signature=True,
                    key_cert_sign=server is None,
                    crl_sign=server is None,
                    content_commitment=False,
                    key_encipherment=False,
                    data_encipherment=False,
                    key_agreement=server is not None,
                    encipher_only=False,
                    decipher_only=False,
                ),
                critical=True,
            )
        )
        if server is not None:
            usage = ExtendedKeyUsageOID.SERVER_AUTH if server else ExtendedKeyUsageOID.CLIENT_AUTH
            builder = builder.add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
        return builder.sign(authority_key, hashes.SHA256())

    authority = certificate("benchmark", authority_key, server=None)
    (folder / "ca.pem").write_bytes(authority.public_bytes(serialization.Encoding.PEM))
    for name, server in names.items():
        key = ec.generate_private_key(ec.SECP256R1())
        write_key(folder / f"{name}.key", key)
        leaf = certificate(name, key, server=server)
        (folder / f"{name}.pem").write_bytes(leaf.public_bytes(serialization.Encoding.PEM))
