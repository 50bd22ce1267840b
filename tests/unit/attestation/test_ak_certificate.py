"""An attestation key's certificates: the whole chain, roles, dates, revocation, and Google's instances."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID
from software_tpm import SoftwareTpm
from tdx_world import USAGES

from attestation.errors import AttestationError
from attestation.simulated import der_writer as der
from attestation.tpm.ak_certificate import AkChain
from attestation.tpm.gcp import OID_INSTANCE, GcpPolicy, check_instance, read_instance
from attestation.tpm.policy import TpmPolicy
from attestation.tpm.verify import TpmCollateral, VerifiedQuote, appraise

AT = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)
DAY = timedelta(days=1)
NONCE = bytes(range(32))
SIGN = {"digital_signature": True}
ISSUE = {"key_cert_sign": True, "crl_sign": True}
Key = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey


def named(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)] if text else [])


def new_key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP384R1())


@dataclass
class Issuer:
    """A CA that issues whatever it is told to."""

    name: str
    key: Key
    certificate: bytes

    def issue(
        self,
        name: str,
        key: Key,
        *,
        ca: bool = False,
        usage: dict[str, bool] | None = None,
        path_length: int | None = None,
        extensions: tuple[tuple[str, bool, bytes], ...] = (),
        begin: datetime = AT - DAY,
        end: datetime = AT + DAY,
        algorithm: hashes.HashAlgorithm | None = None,
        serial: int = 77,
    ) -> bytes:
        builder = (
            x509.CertificateBuilder(named(self.name), named(name), key.public_key(), serial, begin, end)
            .add_extension(x509.BasicConstraints(ca, path_length), critical=True)
            .add_extension(
                x509.KeyUsage(**{**dict.fromkeys(USAGES, False), **(usage or (ISSUE if ca else SIGN))}), True
            )
        )
        for oid, critical, value in extensions:
            unknown = x509.UnrecognizedExtension(x509.ObjectIdentifier(oid), value)
            builder = builder.add_extension(unknown, critical)
        return builder.sign(self.key, algorithm or hashes.SHA384()).public_bytes(Encoding.DER)

    def revoking(self, *serials: int, update: datetime = AT - DAY, next_update: datetime = AT + DAY) -> bytes:
        builder = x509.CertificateRevocationListBuilder(named(self.name), update, next_update)
        for serial in serials:
            revoked = x509.RevokedCertificateBuilder(serial, update).build()
            builder = builder.add_revoked_certificate(revoked)
        return builder.sign(self.key, hashes.SHA384()).public_bytes(Encoding.DER)


@pytest.fixture(scope="module")
def root() -> Issuer:
    issuer = Issuer("Root", new_key(), b"")
    issuer.certificate = issuer.issue("Root", issuer.key, ca=True)
    return issuer


@pytest.fixture(scope="module")
def middle(root: Issuer) -> Issuer:
    key = new_key()
    return Issuer("Middle", key, root.issue("Middle", key, ca=True, path_length=0))


@pytest.fixture(scope="module")
def tpm() -> SoftwareTpm:
    return SoftwareTpm().boot()


@pytest.fixture(scope="module")
def pin(root: Issuer) -> bytes:
    return AkChain.parse(root.certificate * 2).root.sha256


def code(test: Callable[[], object]) -> str | None:
    try:
        test()
    except AttestationError as error:
        return error.code
    return None


def test_a_chain_ends_at_the_pinned_root(root: Issuer, middle: Issuer, tpm: SoftwareTpm, pin: bytes) -> None:
    for name in ("AK", ""):
        leaf = middle.issue(name, tpm.key)
        chain = AkChain.parse(leaf + middle.certificate + root.certificate)
        assert (chain.leaf.common_name, chain.root.common_name) == (name, "Root")
        chain.verify({pin}, AT)
        assert code(lambda chain=chain: chain.verify({bytes(32)}, AT)) == "chain_untrusted"
        assert code(lambda chain=chain: chain.verify(set(), AT)) == "chain_untrusted"
        assert code(lambda chain=chain: chain.verify({pin}, AT + 2 * DAY)) == "cert_expired"
        assert code(lambda chain=chain: chain.verify({pin}, AT - 2 * DAY)) == "cert_not_yet_valid"
        short = AkChain.parse(leaf + root.certificate)
        assert code(lambda short=short: short.verify({pin}, AT)) == "chain_untrusted"


def test_roles_cannot_be_exchanged(root: Issuer, middle: Issuer, tpm: SoftwareTpm, pin: bytes) -> None:
    key = new_key()
    below = Issuer("Below", key, middle.issue("Below", key, ca=True))
    no_ca = Issuer("NoCa", key, root.issue("NoCa", key, usage=ISSUE))
    no_usage = Issuer("NoUsage", key, root.issue("NoUsage", key, ca=True, usage=SIGN))
    for leaf, above, expected in (
        (
            middle.issue("AK", tpm.key, usage={"key_encipherment": True}),
            middle.certificate,
            "chain_wrong_role",
        ),
        (
            middle.issue("AK", tpm.key, ca=True, usage={**ISSUE, **SIGN}),
            middle.certificate,
            "chain_wrong_role",
        ),
        (no_ca.issue("AK", tpm.key), no_ca.certificate, "chain_wrong_role"),
        (no_usage.issue("AK", tpm.key), no_usage.certificate, "chain_wrong_role"),
        (below.issue("AK", tpm.key), below.certificate + middle.certificate, "chain_untrusted"),
        (
            middle.issue("AK", tpm.key, extensions=(("1.2.3", True, b"\5\0"),)),
            middle.certificate,
            "cert_extension",
        ),
        (replace(middle, key=key).issue("AK", tpm.key), middle.certificate, "chain_untrusted"),
        (replace(middle, name="Other").issue("AK", tpm.key), middle.certificate, "chain_untrusted"),
    ):
        chain = AkChain.parse(leaf + above + root.certificate)
        assert code(lambda chain=chain: chain.verify({pin}, AT)) == expected


def test_weak_signatures_are_refused(tpm: SoftwareTpm) -> None:
    strong, weak = (rsa.generate_private_key(65537, bits) for bits in (2048, 1024))
    for key, algorithm, expected in (
        (strong, hashes.SHA256(), None),
        (strong, hashes.SHA512(), None),
        (strong, hashes.SHA224(), "cert_signature_algorithm"),
        (weak, hashes.SHA256(), "cert_key_type"),
        (ec.generate_private_key(ec.SECP256R1()), hashes.SHA512(), None),
        (ec.generate_private_key(ec.BrainpoolP256R1()), hashes.SHA256(), "cert_key_type"),
    ):
        issuer = Issuer("Root", key, b"")
        issuer.certificate = issuer.issue("Root", key, ca=True, algorithm=algorithm)
        chain = AkChain.parse(issuer.issue("AK", tpm.key, algorithm=algorithm) + issuer.certificate)
        assert code(lambda chain=chain: chain.verify({chain.root.sha256}, AT)) == expected


def test_a_pinned_root_need_not_sign_itself(tpm: SoftwareTpm) -> None:
    """It is known by its bytes: another CA may have signed it, or itself by a scheme of an earlier day."""
    older, key = Issuer("Older", new_key(), b""), new_key()
    signed_by_another = Issuer("Root", key, older.issue("Root", key, ca=True))
    by_short_digest = Issuer("Root", key, b"")
    by_short_digest.certificate = by_short_digest.issue("Root", key, ca=True, algorithm=hashes.SHA224())
    for issuer in (signed_by_another, by_short_digest):
        chain = AkChain.parse(issuer.issue("AK", tpm.key) + issuer.certificate)
        assert code(lambda chain=chain: chain.verify({chain.root.sha256}, AT)) is None
        assert code(lambda chain=chain: chain.verify({bytes(32)}, AT)) == "chain_untrusted"


def test_the_issuers_list_can_revoke_the_key(
    root: Issuer, middle: Issuer, tpm: SoftwareTpm, pin: bytes
) -> None:
    chain = AkChain.parse(middle.issue("AK", tpm.key, serial=5) + middle.certificate + root.certificate)
    forged = replace(middle, key=new_key())
    for crl, expected in (
        (middle.revoking(4, 6), None),
        (middle.revoking(4, 5), "cert_revoked"),
        (root.revoking(), "crl_issuer_mismatch"),
        (forged.revoking(), "crl_signature"),
        (middle.revoking(next_update=AT - DAY / 2), "crl_expired"),
        (middle.revoking(update=AT + DAY / 2), "crl_not_yet_valid"),
        (b"", "crl_malformed"),
    ):
        assert code(lambda crl=crl: chain.verify_not_revoked(crl, AT)) == expected


def judged(tpm: SoftwareTpm, policy: TpmPolicy, gcp: GcpPolicy, **collateral: bytes) -> VerifiedQuote:
    given = TpmCollateral(eventlog=tpm.event_log(), **collateral)
    return appraise(tpm.evidence(NONCE).encode(), given, policy, gcp, NONCE, AT).require()


def test_a_certified_key_is_trusted(root: Issuer, middle: Issuer, tpm: SoftwareTpm, pin: bytes) -> None:
    policy = TpmPolicy(ca=frozenset({pin}))
    above = middle.certificate + root.certificate
    chain = middle.issue("AK", tpm.key) + above
    found = judged(tpm, policy, GcpPolicy(), ak_chain=chain)
    assert found.instance is None
    other = middle.issue("AK", new_key()) + above
    listed = replace(policy, require_crl=True)
    judged(tpm, listed, GcpPolicy(), ak_chain=chain, ak_crl=middle.revoking())
    for test, expected in (
        (lambda: judged(tpm, policy, GcpPolicy(), ak_chain=other), "ak_certificate_mismatch"),
        (lambda: judged(tpm, policy, GcpPolicy()), "ak_untrusted"),
        (lambda: judged(tpm, TpmPolicy(), GcpPolicy(), ak_chain=chain), "chain_untrusted"),
        (lambda: judged(tpm, policy, GcpPolicy(), ak_chain=b""), "chain_malformed"),
        (lambda: judged(tpm, policy, GcpPolicy(), ak_chain=chain + b"\0"), "cert_malformed"),
        (lambda: judged(tpm, policy, GcpPolicy(), ak_chain=chain * 3), "chain_malformed"),
        (lambda: judged(tpm, listed, GcpPolicy(), ak_chain=chain), "crl_missing"),
        (
            lambda: judged(tpm, policy, GcpPolicy(), ak_chain=chain, ak_crl=middle.revoking(77)),
            "cert_revoked",
        ),
    ):
        assert code(test) == expected


def instance_extension(production: bool = True) -> bytes:
    def text(value: str) -> bytes:
        return der.element(0x0C, value.encode())

    properties = b"".join(
        der.element(0xA0 | number, value)
        for number, value in enumerate(
            (der.element(0x02, b"\0"), der.element(0x01, b"\xff" if production else b"\0"))
        )
    )
    fields = (
        text("zone-a"),
        der.element(0x02, b"\x11"),
        text("project-a"),
        der.element(0x02, b"\x22"),
        text("node"),
        der.element(0xA0, der.element(0x30, properties)),
    )
    return der.element(0x30, b"".join(fields))


def test_googles_authority_counts_for_named_projects_alone(
    root: Issuer, middle: Issuer, tpm: SoftwareTpm, pin: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("attestation.tpm.verify.GCP_ROOTS_SHA256", frozenset({pin}))
    above = middle.certificate + root.certificate

    def chain(*extensions: tuple[str, bool, bytes]) -> bytes:
        return middle.issue("AK", tpm.key, extensions=extensions) + above

    production = chain((OID_INSTANCE, False, instance_extension()))
    debugging = chain((OID_INSTANCE, False, instance_extension(production=False)))
    ours = GcpPolicy(projects=frozenset({"project-a"}))
    instance = judged(tpm, TpmPolicy(), ours, ak_chain=production).instance
    assert instance is not None
    assert (instance.zone, instance.instance_id, instance.instance_name) == ("zone-a", 0x22, "node")
    judged(tpm, TpmPolicy(), GcpPolicy(instance_ids=frozenset({"34"})), ak_chain=production)
    judged(tpm, TpmPolicy(), replace(ours, require_production=False), ak_chain=debugging)
    for policy, gcp, given, expected in (
        (TpmPolicy(), GcpPolicy(), production, "chain_untrusted"),
        (TpmPolicy(ca=frozenset({pin})), GcpPolicy(), production, "gcp_instance"),
        (TpmPolicy(), GcpPolicy(projects=frozenset({"project-b"})), production, "gcp_instance"),
        (TpmPolicy(), replace(ours, zones=frozenset({"zone-b"})), production, "gcp_instance"),
        (TpmPolicy(), ours, debugging, "gcp_instance"),
        (TpmPolicy(), ours, chain(), "cert_extension"),
        (TpmPolicy(), ours, chain((OID_INSTANCE, False, b"\x30\x00")), "cert_extension"),
    ):
        assert code(lambda p=policy, g=gcp, c=given: judged(tpm, p, g, ak_chain=c)) == expected


def test_every_changed_byte_of_an_instance_stays_in_the_family(root: Issuer, tpm: SoftwareTpm) -> None:
    good = instance_extension()
    policy = GcpPolicy(projects=frozenset({"project-a"}))
    for position in range(len(good)):
        for value in (0, 0x80, 0xFF, good[position] ^ 1):
            odd = good[:position] + bytes([value]) + good[position + 1 :]
            leaf = root.issue("AK", tpm.key, extensions=((OID_INSTANCE, False, odd),))
            chain = AkChain.parse(leaf + root.certificate)
            code(lambda chain=chain: check_instance(read_instance(chain.leaf), policy))
