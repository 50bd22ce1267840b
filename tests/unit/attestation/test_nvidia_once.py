"""The memory of one appraisal: what is good is not worked out twice, and nothing else is remembered."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import pairwise

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from attestation.certificate import Certificate
from attestation.errors import AttestationError, CertificateMalformed
from attestation.nvidia.chain import parse_chain
from attestation.nvidia.errors import DeviceChainError, RevocationError
from attestation.nvidia.evidence import encode_evidence_list
from attestation.nvidia.once import Once
from attestation.nvidia.policy import GpuPolicy
from attestation.nvidia.verify import appraise_gpu_section, verify_gpu, verify_gpus
from attestation.simulated.nvidia import SimulatedDevicePki
from attestation.simulated.nvidia_report import GpuSettings
from attestation.simulated.nvidia_rim import SimulatedRimPki

AT = datetime(2026, 11, 21, 12, tzinfo=UTC)
NONCE = bytes(range(32))
PKI = SimulatedDevicePki.create()
RIMS = SimulatedRimPki.create()
ONE, TWO = (PKI.make_gpu().evidence(NONCE) for _ in range(2))
PIECES = {
    **RIMS.gpu_rims(GpuSettings()),
    **RIMS.ocsp(AT),
    **PKI.ocsp(ONE.certificate, AT),
    **PKI.ocsp(TWO.certificate, AT),
}
POLICY = GpuPolicy(simulated_root=PKI.root_sha256, simulated_rim_root=RIMS.root_sha256)
CHAIN = parse_chain(ONE.certificate).certificates
SHA384 = hashes.SHA384()


class CountedKey:
    """A key that notes what it is asked to check."""

    def __init__(self, key: object, asked: Counter[bytes]) -> None:
        self._key, self._asked = key, asked

    def verify(self, signature: bytes, signed: bytes, algorithm: ec.EllipticCurveSignatureAlgorithm) -> None:
        self._asked[signature] += 1
        assert isinstance(self._key, ec.EllipticCurvePublicKey)
        self._key.verify(signature, signed, algorithm)


@contextmanager
def counted(monkeypatch: pytest.MonkeyPatch) -> Iterator[Counter[bytes]]:
    """How often each signature of a certificate or response is really checked, by signature."""
    asked: Counter[bytes] = Counter()
    plain = Once.verify

    def verify(
        self: Once, signer: Certificate, key: object, signature: bytes, signed: bytes, algorithm: object
    ) -> None:
        plain(self, signer, CountedKey(key, asked), signature, signed, algorithm)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(Once, "verify", verify)
        yield asked


def check(
    once: Once,
    subject: Certificate,
    issuer: Certificate,
    asked: Counter[bytes],
    *,
    signature: bytes | None = None,
    signed: bytes | None = None,
    algorithm: hashes.HashAlgorithm = SHA384,
) -> None:
    """Check the subject's signature by the issuer's key, or what is given in place of its parts."""
    key = CountedKey(issuer.public_key, asked)
    once.verify(issuer, key, signature or subject.signature, signed or subject.signed, algorithm)  # type: ignore[arg-type]


def test_a_good_signature_is_checked_once() -> None:
    once, asked = Once(), Counter[bytes]()
    for _ in range(3):
        for subject, issuer in pairwise(CHAIN):
            check(once, subject, issuer, asked)
    assert list(asked.values()) == [1, 1, 1, 1]


def test_another_memory_knows_nothing_of_it() -> None:
    asked = Counter[bytes]()
    for _ in range(3):
        check(Once(), CHAIN[0], CHAIN[1], asked)
    assert asked[CHAIN[0].signature] == 3


def test_a_bad_signature_is_never_remembered_as_good() -> None:
    once, asked = Once(), Counter[bytes]()
    for _ in range(3):
        with pytest.raises(InvalidSignature):
            check(once, CHAIN[0], CHAIN[2], asked)
    assert asked[CHAIN[0].signature] == 3
    check(once, CHAIN[0], CHAIN[1], asked)
    # Good by its issuer, it still is not by anyone else, nor over or as anything else.
    changed = CHAIN[0].signed[:-1] + bytes([CHAIN[0].signed[-1] ^ 1])
    with pytest.raises(InvalidSignature):
        check(once, CHAIN[0], CHAIN[2], asked)
    with pytest.raises(InvalidSignature):
        check(once, CHAIN[0], CHAIN[1], asked, signed=changed)
    with pytest.raises(InvalidSignature):
        check(once, CHAIN[0], CHAIN[1], asked, signature=CHAIN[1].signature)
    with pytest.raises(InvalidSignature):
        check(once, CHAIN[0], CHAIN[1], asked, algorithm=hashes.SHA256())


@pytest.mark.parametrize("moved", [-4, 4])
def test_parts_do_not_run_into_each_other(moved: int) -> None:
    """Bytes that move from one part to the next make another question."""
    once, asked = Once(), Counter[bytes]()
    check(once, CHAIN[0], CHAIN[1], asked)
    both = CHAIN[0].signature + CHAIN[0].signed
    border = len(CHAIN[0].signature) + moved
    with pytest.raises(InvalidSignature):
        check(once, CHAIN[0], CHAIN[1], asked, signature=both[:border], signed=both[border:])


def test_a_certificate_is_read_once_and_a_broken_one_never_kept() -> None:
    once = Once()
    assert once.certificate(CHAIN[0].raw) is once.certificate(bytes(bytearray(CHAIN[0].raw)))
    assert Once().certificate(CHAIN[0].raw) is not once.certificate(CHAIN[0].raw)
    for _ in range(2):
        with pytest.raises(CertificateMalformed):
            once.certificate(CHAIN[0].raw[:-1])


def test_devices_of_one_appraisal_share_and_two_appraisals_do_not(monkeypatch: pytest.MonkeyPatch) -> None:
    section = encode_evidence_list([ONE, TWO])
    with counted(monkeypatch) as first:
        assert len(verify_gpus(section, NONCE, POLICY, AT, PIECES)) == 2
    assert set(first.values()) == {1}
    with counted(monkeypatch) as second:
        verify_gpus(section, NONCE, POLICY, AT, PIECES)
    assert second == first
    with counted(monkeypatch) as single:
        verify_gpu(ONE, NONCE, POLICY, AT, PIECES)
    with counted(monkeypatch) as again:
        verify_gpu(ONE, NONCE, POLICY, AT, PIECES)
    assert single == again
    assert set(single.values()) == {1}
    assert set(single) < set(first)


def test_an_appraisal_that_passed_opens_no_door_for_the_next() -> None:
    """The same evidence is judged anew: by the time, the roots and the collateral of each appraisal."""
    verify_gpu(ONE, NONCE, POLICY, AT, PIECES)
    later = AT + timedelta(days=60)
    for policy, at, pieces, error in (
        (replace(POLICY, simulated_root=None), AT, PIECES, DeviceChainError),
        (POLICY, later, PIECES, RevocationError),
        (POLICY, AT, {name: data for name, data in PIECES.items() if "rim/" in name}, RevocationError),
    ):
        with pytest.raises(error):
            verify_gpu(ONE, NONCE, policy, at, pieces)


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_a_good_device_covers_for_no_other(order: tuple[int, int]) -> None:
    """One of two chains has a leaf that its issuer did not sign, all else being shared."""
    stranger = SimulatedDevicePki.create().make_gpu().evidence(NONCE)
    leaf, rest = stranger.certificate.split(b"-----END CERTIFICATE-----\n", 1)
    _, own = TWO.certificate.split(b"-----END CERTIFICATE-----\n", 1)
    assert rest != own
    forged = replace(stranger, certificate=leaf + b"-----END CERTIFICATE-----\n" + own)
    entries = [(ONE, forged)[place] for place in order]
    appraisal = appraise_gpu_section(encode_evidence_list(entries), NONCE, POLICY, AT, PIECES)
    assert isinstance(appraisal.error, AttestationError)
    assert appraisal.error.stage == "gpu.chain"
    assert appraisal.error.code in ("chain_untrusted", "chain_order")
    assert appraisal.gpus == ()
