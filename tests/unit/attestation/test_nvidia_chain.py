"""Device certificate chains and firmware ids: every rule, and hostile bytes."""

import base64
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import given
from hypothesis import strategies as st

from attestation.certificate import Extension
from attestation.errors import AttestationError, ChainUntrusted
from attestation.nvidia.chain import MAX_CHAIN, parse_chain, verify_chain
from attestation.nvidia.fwid import COMPOSITE_DEVICE_ID, DICE_TCB_INFO, certificate_fwid
from attestation.simulated.nvidia import SimulatedDevicePki
from attestation.simulated.nvidia_report import FWID

AT = datetime(2026, 11, 21, tzinfo=UTC)
PKI = SimulatedDevicePki.create()
PEM = PKI.make_gpu().certificate
ROOTS = {PKI.root_sha256}
END = b"-----END CERTIFICATE-----\n"


def blocks(pem: bytes) -> list[bytes]:
    return [block + END for block in pem.split(END) if block]


def refusal(pem: bytes, at: datetime = AT, roots: set[str] = ROOTS) -> str:
    with pytest.raises(AttestationError) as caught:
        verify_chain(parse_chain(pem), roots=roots, at=at)
    return caught.value.code


def with_certificate(position: int, certificate: x509.Certificate) -> bytes:
    parts = blocks(PEM)
    parts[position] = certificate.public_bytes(Encoding.PEM)
    return b"".join(parts)


def rebuilt(
    position: int,
    signer: ec.EllipticCurvePrivateKey,
    *,
    key: ec.EllipticCurvePublicKey | None = None,
    hash: hashes.SHA256 | None = None,
    drop: tuple[x509.ObjectIdentifier, ...] = (),
    add: tuple[tuple[x509.ExtensionType, bool], ...] = (),
) -> bytes:
    """The chain with one certificate made anew by its own issuer, changed in one respect."""
    old = x509.load_pem_x509_certificate(blocks(PEM)[position])
    builder = x509.CertificateBuilder(
        subject_name=old.subject,
        issuer_name=old.issuer,
        public_key=key or old.public_key(),
        serial_number=old.serial_number,
        not_valid_before=old.not_valid_before_utc,
        not_valid_after=old.not_valid_after_utc,
    )
    for extension in old.extensions:
        if extension.oid not in drop:
            builder = builder.add_extension(extension.value, extension.critical)
    for value, critical in add:
        builder = builder.add_extension(value, critical)
    return with_certificate(position, builder.sign(signer, hash or hashes.SHA384()))


def usage(*, sign: bool, certificates: bool) -> tuple[x509.KeyUsage, bool]:
    rest = ("content_commitment", "key_encipherment", "data_encipherment", "key_agreement")
    names = dict.fromkeys((*rest, "encipher_only", "decipher_only", "crl_sign"), False)
    return x509.KeyUsage(digital_signature=sign, key_cert_sign=certificates, **names), True


def test_chain_to_a_pinned_root() -> None:
    chain = verify_chain(parse_chain(PEM), roots=ROOTS, at=AT)
    assert chain.hardware_model == "GH100 A01 GSP BROM"
    assert chain.root_sha256 == PKI.root_sha256
    assert chain.fwid == FWID
    assert chain.ueid == str(chain.chain.certificates[0].serial)


def test_same_chain_with_other_line_ends() -> None:
    for pem in (PEM.replace(b"\n", b"\r\n"), PEM.rstrip(b"\n"), PEM + b"\n"):
        verify_chain(parse_chain(pem), roots=ROOTS, at=AT)


@pytest.mark.parametrize(
    ("pem", "code"),
    [
        (b"", "chain_length"),
        (blocks(PEM)[0], "chain_length"),
        (b"".join(blocks(PEM)[1:]), "chain_length"),
        (PEM + blocks(PEM)[4], "chain_length"),
        (b"".join(reversed(blocks(PEM))), "chain_order"),
        (b"".join(blocks(PEM)[index] for index in (0, 2, 1, 3, 4)), "chain_order"),
        (b"\n" + PEM, "chain_malformed"),
        (b"subject=/CN=x\n" + PEM, "chain_malformed"),
        (PEM + b"x", "chain_malformed"),
        (PEM + b"\n" * MAX_CHAIN, "chain_malformed"),
        (PEM.replace(b"CERTIFICATE", b"X509 CRL"), "chain_malformed"),
        (PEM.replace(b"MII", b"!!!", 1), "chain_malformed"),
        (b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n" * 5, "chain_malformed"),
    ],
)
def test_shape(pem: bytes, code: str) -> None:
    assert refusal(pem) == code


def test_padding_bits_of_the_encoding_are_zero() -> None:
    # A body whose last group has padding: the bits that a decoder would drop are set.
    for position, block in enumerate(blocks(PEM)):
        if b"=\n" in block:
            at = block.index(b"=")
            letters = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
            last = letters[letters.index(block[at - 1]) + 1]
            parts = blocks(PEM)
            parts[position] = block[: at - 1] + bytes([last]) + block[at:]
            assert refusal(b"".join(parts)) == "chain_malformed"
            return
    # Every certificate's length was a multiple of three: nothing is padded.
    assert all(len(base64.b64decode(b"".join(block.split(b"\n")[1:-2]))) % 3 == 0 for block in blocks(PEM))


def test_root_is_pinned_by_its_bytes() -> None:
    assert refusal(PEM, roots={"00" * 32}) == "chain_untrusted"
    with pytest.raises(ChainUntrusted):
        verify_chain(parse_chain(PEM), roots=set(), at=AT)


def test_root_of_another_platform_appended() -> None:
    other = SimulatedDevicePki.create()
    pem = with_certificate(4, other.root.certificate)
    assert refusal(pem, roots={other.root_sha256}) == "chain_untrusted"


def test_validity_is_judged_at_the_given_time() -> None:
    begin = datetime(2023, 1, 1, tzinfo=UTC)
    verify_chain(parse_chain(PEM), roots=ROOTS, at=begin)
    assert refusal(PEM, at=begin - timedelta(seconds=1)) == "chain_expired"
    assert refusal(PEM, at=datetime(2026, 11, 21)) == "time_invalid"


def test_keys_and_algorithms() -> None:
    signer = PKI.provisioner.key
    p256 = ec.generate_private_key(ec.SECP256R1()).public_key()
    assert refusal(rebuilt(1, signer, key=p256)) == "chain_algorithm"
    assert refusal(rebuilt(1, signer, hash=hashes.SHA256())) == "chain_algorithm"
    assert refusal(rebuilt(1, ec.generate_private_key(ec.SECP384R1()))) == "chain_untrusted"


def test_who_may_issue() -> None:
    signer = PKI.provisioner.key
    basic, key_usage = x509.BasicConstraints.oid, x509.KeyUsage.oid
    ca = x509.BasicConstraints(ca=True, path_length=None)
    verify_chain(parse_chain(rebuilt(1, signer)), roots=ROOTS, at=AT)
    assert refusal(rebuilt(1, signer, drop=(basic,))) == "chain_not_ca"
    assert refusal(rebuilt(1, signer, drop=(key_usage,))) == "chain_not_ca"
    no_issue = usage(sign=True, certificates=False)
    assert refusal(rebuilt(1, signer, drop=(key_usage,), add=(no_issue,))) == "chain_not_ca"
    leafless = x509.BasicConstraints(ca=True, path_length=0)
    assert refusal(rebuilt(2, PKI.family.key, drop=(basic,), add=((leafless, True),))) == "chain_not_ca"
    identity = PKI.make_identity()
    for extensions in (
        ((ca, True), usage(sign=True, certificates=False)),
        (usage(sign=True, certificates=True),),
        (usage(sign=False, certificates=False),),
    ):
        leaf_key = ec.generate_private_key(ec.SECP384R1()).public_key()
        leaf = identity.issue(leaf_key, x509.load_pem_x509_certificate(blocks(PEM)[0]).subject, *extensions)
        parts = blocks(PEM)
        parts[0] = leaf.public_bytes(Encoding.PEM)
        parts[1] = identity.certificate.public_bytes(Encoding.PEM)
        assert refusal(b"".join(parts)) == "chain_not_ca"


def test_critical_extensions_must_be_understood() -> None:
    unknown = (x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4"), b"\x05\x00"), True)
    assert refusal(rebuilt(1, PKI.provisioner.key, add=(unknown,))) == "chain_malformed"


def test_truncation_at_every_length() -> None:
    for length in range(len(PEM) - 1):
        with pytest.raises(AttestationError):
            parse_chain(PEM[:length])


def test_every_single_byte_of_the_text() -> None:
    for offset in range(len(PEM)):
        changed = PEM[:offset] + bytes([PEM[offset] ^ 0x01]) + PEM[offset + 1 :]
        try:
            chain = parse_chain(changed)
        except AttestationError:
            continue
        # Signatures are slow to check, so of those that still parse every ninth is.
        if offset % 9 == 0:
            with pytest.raises(AttestationError):
                verify_chain(chain, roots=ROOTS, at=AT)


@given(st.binary(max_size=600), st.integers(0, 4))
def test_random_certificates(data: bytes, position: int) -> None:
    block = b"-----BEGIN CERTIFICATE-----\n" + base64.b64encode(data) + b"\n" + END
    parts = blocks(PEM)
    parts[position] = block
    with pytest.raises(AttestationError):
        parse_chain(b"".join(parts))


@given(st.integers(0, 4), st.data())
def test_changed_certificates(position: int, data: st.DataObject) -> None:
    der = bytearray(parse_chain(PEM).certificates[position].raw)
    offset = data.draw(st.integers(0, len(der) - 1))
    der[offset] ^= data.draw(st.integers(1, 255))
    parts = blocks(PEM)
    parts[position] = b"-----BEGIN CERTIFICATE-----\n" + base64.b64encode(bytes(der)) + b"\n" + END
    with pytest.raises(AttestationError):
        verify_chain(parse_chain(b"".join(parts)), roots=ROOTS, at=AT)


COMPOSITE = next(
    extension.value
    for extension in parse_chain(PEM).certificates[0].extensions
    if extension.oid == COMPOSITE_DEVICE_ID
)


def fwid_of(*extensions: tuple[str, bytes]) -> bytes | None:
    return certificate_fwid([Extension(oid, False, value) for oid, value in extensions])


def tlv(tag: int, content: bytes) -> bytes:
    size = bytes([len(content)]) if len(content) < 128 else b"\x81" + bytes([len(content)])
    return bytes([tag]) + size + content


SHA384_OID = bytes.fromhex("0609608648016503040202")


def tcb_info(fwids: bytes, *after: bytes) -> bytes:
    return tlv(0x30, tlv(0x80, b"maker") + tlv(0xA6, fwids) + b"".join(after))


def test_firmware_id_of_both_forms() -> None:
    digest = bytes(range(48))
    item = tlv(0x30, SHA384_OID + tlv(0x04, digest))
    assert fwid_of((COMPOSITE_DEVICE_ID, COMPOSITE)) == FWID
    zero = tlv(0x30, SHA384_OID + tlv(0x04, bytes(48)))
    assert fwid_of((DICE_TCB_INFO, tcb_info(item + zero, tlv(0x87, b"\x05\x00\x80\0\0\0")))) == digest
    assert fwid_of() is None


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"\x30\x00",
        tlv(0x30, tlv(0x80, b"maker")),
        tcb_info(b""),
        tcb_info(tlv(0x30, SHA384_OID + tlv(0x04, bytes(32)))),
        tcb_info(tlv(0x30, bytes.fromhex("0609608648016503040201") + tlv(0x04, bytes(48)))),
        tcb_info(tlv(0x30, SHA384_OID + tlv(0x04, bytes(48))), tlv(0xA6, b"")),
        tcb_info(tlv(0x30, SHA384_OID + tlv(0x04, bytes(48))), tlv(0x81, b"")),
        tcb_info(tlv(0x30, SHA384_OID + tlv(0x04, bytes(48)))) + b"\x00",
    ],
)
def test_malformed_tcb_information(value: bytes) -> None:
    with pytest.raises(AttestationError) as caught:
        fwid_of((DICE_TCB_INFO, value))
    assert caught.value.code == "fwid_malformed"


def test_two_firmware_ids_are_refused() -> None:
    item = tlv(0x30, SHA384_OID + tlv(0x04, bytes(48)))
    with pytest.raises(AttestationError) as caught:
        fwid_of((COMPOSITE_DEVICE_ID, COMPOSITE), (DICE_TCB_INFO, tcb_info(item)))
    assert caught.value.code == "fwid_malformed"


def test_truncated_firmware_ids() -> None:
    for length in range(len(COMPOSITE)):
        with pytest.raises(AttestationError):
            fwid_of((COMPOSITE_DEVICE_ID, COMPOSITE[:length]))


@given(st.binary(max_size=300), st.sampled_from([COMPOSITE_DEVICE_ID, DICE_TCB_INFO]))
def test_random_firmware_ids(data: bytes, oid: str) -> None:
    with pytest.raises(AttestationError):
        fwid_of((oid, data))


def test_identity_stays_when_the_attestation_key_changes() -> None:
    identity = PKI.make_identity()
    first, second = (parse_chain(PKI.make_gpu(identity=identity).certificate) for _ in range(2))
    assert first.ueid != second.ueid
    assert first.identity_sha256 == second.identity_sha256
