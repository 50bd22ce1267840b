"""Whatever the bytes: TPM evidence gives a verdict or an error of the one family, and never another exception."""

import base64
import contextlib
import hashlib
import json
import random
import struct
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID
from hypothesis import given
from hypothesis import strategies as st
from software_tpm import SoftwareTpm

from attestation.errors import AttestationError
from attestation.sev_snp import SnpCollateral
from attestation.sev_snp_policy import SnpPolicy
from attestation.tpm.ak import parse_public_area, spki_sha256
from attestation.tpm.ak_certificate import AkChain
from attestation.tpm.attest import parse_attest, parse_signature, verify_signature
from attestation.tpm.azure import parse_hcl_report, read_runtime_claims
from attestation.tpm.eventlog import parse_ccel, parse_event_log, rtmrs
from attestation.tpm.evidence import AzureEvidence, TpmEvidence
from attestation.tpm.gcp import GcpPolicy
from attestation.tpm.policy import AzurePolicy, TpmPolicy
from attestation.tpm.verify import TpmCollateral, appraise
from attestation.tpm.verify_azure import AzureDemands, appraise_azure_snp

AT = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)
NONCE = bytes(range(32))
TPM = SoftwareTpm().boot()
RSA_KEY = rsa.generate_private_key(65537, 2048)
RSA_TPM = SoftwareTpm(RSA_KEY).boot()
POLICY = TpmPolicy(pinned_spki=frozenset({spki_sha256(TPM.key.public_key())}))
LOG = TPM.event_log()


def number(value: int) -> str:
    return base64.urlsafe_b64encode(value.to_bytes((value.bit_length() + 7) // 8)).rstrip(b"=").decode()


def hcl_report() -> bytes:
    numbers = RSA_KEY.public_key().public_numbers()
    key = {
        "kid": "HCLAkPub",
        "key_ops": ["sign"],
        "kty": "RSA",
        "e": number(numbers.e),
        "n": number(numbers.n),
    }
    configuration = {"secure-boot": True, "tpm-enabled": True}
    data = json.dumps({"keys": [key], "vm-configuration": configuration, "user-data": "00" * 64}).encode()
    hardware = bytearray(1184)
    hardware[0] = 3
    hardware[0x50:0x70] = hashlib.sha256(data).digest()
    header = b"HCLA" + struct.pack("<IIII", 2, 0, 2, 0) + bytes(12)
    return header + bytes(hardware) + struct.pack("<5I", len(data) + 20, 1, 2, 1, len(data)) + data


HCL = hcl_report()
AZURE = AzureEvidence(RSA_TPM.quote(NONCE), HCL)


def read_log(data: bytes) -> None:
    log = parse_event_log(data)
    for bank in log.banks:
        log.replay(bank)
    log.check_digests()
    log.secure_boot()


def judge_log(data: bytes) -> None:
    evidence = TPM.evidence(NONCE).encode()
    appraise(evidence, TpmCollateral(eventlog=data), POLICY, GcpPolicy(), NONCE, AT).require()


def judge(data: bytes) -> None:
    appraise(data, TpmCollateral(eventlog=LOG), POLICY, GcpPolicy(), NONCE, AT).require()


def judge_azure(data: bytes) -> None:
    demands = AzureDemands(TpmPolicy(), AzurePolicy(), NONCE, LOG)
    appraise_azure_snp(data, SnpCollateral(b"", b"", b""), SnpPolicy(), demands, AT).require()


def ca_certificate() -> bytes:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "CA")])
    builder = x509.CertificateBuilder(
        name, name, RSA_KEY.public_key(), 5, AT, datetime(2099, 1, 1, tzinfo=UTC)
    )
    builder = builder.add_extension(x509.BasicConstraints(True, 1), critical=True)
    return builder.sign(RSA_KEY, hashes.SHA256()).public_bytes(Encoding.DER)


def judge_chain(data: bytes) -> None:
    chain = AkChain.parse(data)
    chain.verify({chain.root.sha256}, AT)


def verify(data: bytes) -> None:
    verify_signature(RSA_KEY.public_key(), parse_signature(data), b"message")


@dataclass(frozen=True)
class Target:
    """Something that reads bytes, and bytes that it reads well."""

    read: Callable[[bytes], object]
    good: bytes


QUOTE = TPM.quote(NONCE)
TARGETS = {
    "attest": Target(parse_attest, QUOTE.message),
    "signature": Target(verify, RSA_TPM.sign(b"message")),
    "ecc public area": Target(parse_public_area, TPM.public),
    "rsa public area": Target(parse_public_area, RSA_TPM.public),
    "event log": Target(read_log, LOG),
    "ccel": Target(lambda data: rtmrs(parse_ccel(data)), SoftwareTpm(banks=("sha384",)).event_log()),
    "hcl report": Target(lambda data: read_runtime_claims(parse_hcl_report(data)), HCL),
    "chain": Target(judge_chain, ca_certificate() * 2),
    "evidence": Target(judge, TPM.evidence(NONCE).encode()),
    "evidence beside a log": Target(judge_log, LOG),
    "azure evidence": Target(judge_azure, AZURE.encode()),
    "azure members": Target(lambda data: AzureEvidence.parse(data, tdx=False), AZURE.encode()),
    "tpm members": Target(TpmEvidence.parse, TPM.evidence(NONCE).encode()),
}
NAMES = sorted(TARGETS)


def stays_in_the_family(read: Callable[[bytes], object], data: bytes) -> None:
    with contextlib.suppress(AttestationError):
        read(data)


def mutated(random: random.Random, good: bytes) -> bytes:
    """One to four changes: a byte, a run of bytes, a piece cut out, doubled, or a length field made extreme."""
    data = bytearray(good)
    for _ in range(random.randint(1, 4)):
        at = random.randrange(len(data) + 1)
        match random.randrange(5):
            case 0 if at < len(data):
                data[at] = random.randrange(256)
            case 1:
                data[at : at + 4] = random.choice(
                    (b"\0\0\0\0", b"\xff\xff\xff\xff", b"\0\0\0\1", b"\x80\0\0\0")
                )
            case 2:
                del data[at : at + random.randint(1, 40)]
            case 3:
                data[at:at] = data[at : at + random.randint(1, 40)]
            case _ if at < len(data):
                data[at] ^= 1 << random.randrange(8)
    return bytes(data)


@pytest.mark.parametrize("name", NAMES)
def test_every_truncation_and_every_changed_byte(name: str) -> None:
    target = TARGETS[name]
    step = max(1, len(target.good) // 600)
    for position in range(0, len(target.good), step):
        stays_in_the_family(target.read, target.good[:position])
        changed = target.good[position] ^ 0x81
        stays_in_the_family(
            target.read, target.good[:position] + bytes([changed]) + target.good[position + 1 :]
        )


@pytest.mark.parametrize("name", NAMES)
@given(data=st.binary(max_size=400))
def test_random_bytes(name: str, data: bytes) -> None:
    stays_in_the_family(TARGETS[name].read, data)


@pytest.mark.parametrize("name", NAMES)
def test_a_sample_of_mutations(name: str) -> None:
    source = random.Random(name)
    for _ in range(250):
        stays_in_the_family(TARGETS[name].read, mutated(source, TARGETS[name].good))


@pytest.mark.exhaustive
@pytest.mark.parametrize("name", NAMES)
def test_a_million_mutations_in_all(name: str) -> None:
    source = random.Random(f"all {name}")
    for _ in range(1_000_000 // len(NAMES) + 1):
        stays_in_the_family(TARGETS[name].read, mutated(source, TARGETS[name].good))
