"""A timestamp authority, by the openssl command: https://www.rfc-editor.org/rfc/rfc3161."""

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from tests.support.signing import b64, openssl

_SETTINGS = """
[own]
serial = {directory}/serial
default_policy = 1.2.3.4
digests = sha256
signer_digest = sha256
ess_cert_id_alg = sha256
"""


@dataclass(frozen=True)
class TimestampAuthority:
    """Keeps its key, its certificate and that of its root in a directory. Its clock is the machine's."""

    directory: Path

    def __post_init__(self) -> None:
        root, key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
        usage = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.TIME_STAMPING])
        authority = x509.BasicConstraints(ca=True, path_length=0)
        above = _certificate("root", root, root).add_extension(authority, critical=True)
        own = _certificate("tsa", key, root).add_extension(usage, critical=True)
        (self.directory / "root.pem").write_bytes(above.sign(root, hashes.SHA256()).public_bytes(Encoding.PEM))
        (self.directory / "tsa.pem").write_bytes(own.sign(root, hashes.SHA256()).public_bytes(Encoding.PEM))
        private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        (self.directory / "key.pem").write_bytes(private)
        (self.directory / "serial").write_text("01")
        (self.directory / "settings").write_text(_SETTINGS.format(directory=self.directory))

    def stamp(self, message: bytes) -> bytes:
        """Return the authority's word that the message was there now."""
        request = openssl("ts", "-query", "-data", "/dev/stdin", "-sha256", "-no_nonce", "-cert", given=message)
        (self.directory / "request").write_bytes(request)
        signer = ("-signer", f"{self.directory}/tsa.pem", "-inkey", f"{self.directory}/key.pem")
        settings = ("-config", f"{self.directory}/settings", "-section", "own")
        return openssl("ts", "-reply", "-queryfile", f"{self.directory}/request", *settings, *signer)

    @property
    def trusted(self) -> dict[str, Any]:
        """What a trusted root says of it."""
        files = [self.directory / f"{name}.pem" for name in ("tsa", "root")]
        chain = [x509.load_pem_x509_certificate(one.read_bytes()) for one in files]
        return {
            "subject": {"organization": "test", "commonName": "tsa"},
            "uri": "https://tsa.test",
            "certChain": {"certificates": [{"rawBytes": b64(one.public_bytes(Encoding.DER))} for one in chain]},
            "validFor": {"start": "2020-01-01T00:00:00Z"},
        }


def _certificate(
    name: str, key: ec.EllipticCurvePrivateKey, issuer: ec.EllipticCurvePrivateKey
) -> x509.CertificateBuilder:
    def named(text: str) -> x509.Name:
        return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])

    return (
        x509.CertificateBuilder(named("root"), named(name), key.public_key(), 1 if name == "root" else 2)
        .not_valid_before(datetime(2020, 1, 1, tzinfo=UTC))
        .not_valid_after(datetime(2040, 1, 1, tzinfo=UTC))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer.public_key()), critical=False)
    )
