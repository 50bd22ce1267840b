"""A TPM in software for tests: it keeps PCRs and an event log, and signs quotes as a TPM 2.0 forms them."""

import hashlib
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

from attestation.tpm.ak import ATTRIBUTES
from attestation.tpm.evidence import Quote, TpmEvidence

ALGORITHMS = {"sha1": 0x4, "sha256": 0xB, "sha384": 0xC}
BANKS = ("sha256", "sha384")
REQUIRED = (0, 1, 2, 3, 4, 5, 6, 7, 11, 12, 13)
AK_ATTRIBUTES = ("fixedTPM", "fixedParent", "sensitiveDataOrigin", "userWithAuth", "restricted", "sign")
GLOBAL_VARIABLE = bytes.fromhex("61dfe48bca93d211aa0d00e098032b8c")

NO_ACTION, SEPARATOR, IPL = 0x3, 0x4, 0xD
DRIVER_CONFIG = 0x80000001


def sized(data: bytes) -> bytes:
    return struct.pack(">H", len(data)) + data


def variable(name: str, value: bytes, vendor: bytes = GLOBAL_VARIABLE) -> bytes:
    """UEFI_VARIABLE_DATA."""
    return vendor + struct.pack("<QQ", len(name), len(value)) + name.encode("utf-16-le") + value


@dataclass
class LoggedEvent:
    register: int
    type: int
    measured: bytes
    data: bytes


@dataclass
class SoftwareTpm:
    """``key`` signs by ECDSA, or RSASSA, with SHA-256. ``attributes`` are what its public area claims."""

    key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey = field(
        default_factory=lambda: ec.generate_private_key(ec.SECP256R1())
    )
    attributes: Sequence[str] = AK_ATTRIBUTES
    banks: Sequence[str] = BANKS
    events: list[LoggedEvent] = field(default_factory=list)
    later: list[tuple[int, bytes]] = field(default_factory=list)
    clock: int = 5000

    def measure(self, register: int, type: int, data: bytes, measured: bytes | None = None) -> None:
        """Extend, and log ``data``; by default it is also what is measured."""
        self.events.append(LoggedEvent(register, type, data if measured is None else measured, data))

    def boot(self, secure_boot: bool = True) -> "SoftwareTpm":
        """Measure what firmware and a boot stub measure."""
        self.measure(0, 0x8, b"firmware 1.0")
        self.measure(7, DRIVER_CONFIG, variable("SecureBoot", bytes([secure_boot])))
        self.measure(7, DRIVER_CONFIG, variable("PK", b"key"))
        for register in range(8):
            self.measure(register, SEPARATOR, bytes(4))
        self.measure(4, 0x80000003, b"image load event", b"authenticode")
        self.measure(11, IPL, b".linux\0")
        self.measure(11, IPL, b".linux\0", b"kernel")
        return self

    def pcr(self, bank: str, index: int) -> bytes:
        value = bytes(hashlib.new(bank).digest_size)
        extends = [(e.register, e.measured) for e in self.events if e.type != NO_ACTION] + self.later
        for register, measured in extends:
            if register == index:
                value = hashlib.new(bank, value + hashlib.new(bank, measured).digest()).digest()
        return value

    def event_log(self) -> bytes:
        """The crypto-agile log of what was measured."""
        header = b"Spec ID Event03\0" + struct.pack("<IBBBBI", 0, 0, 2, 0, 2, len(self.banks))
        for bank in self.banks:
            header += struct.pack("<HH", ALGORITHMS[bank], hashlib.new(bank).digest_size)
        header += b"\0"
        log = struct.pack("<II", 0, NO_ACTION) + bytes(20) + struct.pack("<I", len(header)) + header
        for event in self.events:
            log += struct.pack("<III", event.register, event.type, len(self.banks))
            for bank in self.banks:
                log += struct.pack("<H", ALGORITHMS[bank]) + hashlib.new(bank, event.measured).digest()
            log += struct.pack("<I", len(event.data)) + event.data
        return log

    @property
    def public(self) -> bytes:
        """The AK's TPM2B_PUBLIC."""
        attributes = sum(ATTRIBUTES[name] for name in self.attributes)
        public = self.key.public_key()
        if isinstance(public, rsa.RSAPublicKey):
            numbers = public.public_numbers()
            area = (
                struct.pack(">HHI", 0x1, 0xB, attributes) + sized(b"") + struct.pack(">HHH", 0x10, 0x14, 0xB)
            )
            area += struct.pack(">HI", public.key_size, 0) + sized(numbers.n.to_bytes(public.key_size // 8))
        else:
            point = public.public_numbers()
            area = (
                struct.pack(">HHI", 0x23, 0xB, attributes) + sized(b"") + struct.pack(">HHH", 0x10, 0x18, 0xB)
            )
            area += struct.pack(">HH", 0x3, 0x10) + sized(point.x.to_bytes(32)) + sized(point.y.to_bytes(32))
        return sized(area)

    def attest(
        self, nonce: bytes, selections: Sequence[tuple[str, Sequence[int]]], magic: bytes = b"\xffTCG"
    ) -> bytes:
        """TPMS_ATTEST of a quote over these PCRs, in this order."""
        digest = hashlib.sha256()
        listed = struct.pack(">I", len(selections))
        for bank, indices in selections:
            bits = sum(1 << index for index in indices)
            listed += struct.pack(">HB", ALGORITHMS[bank], 3) + bits.to_bytes(3, "little")
            for index in sorted(indices):
                digest.update(self.pcr(bank, index))
        clock = struct.pack(">QIIB", self.clock, 1, 0, 1)
        name = b"\x00\x0b" + bytes(32)
        return b"".join(
            (magic, b"\x80\x18", sized(name), sized(nonce), clock, bytes(8), listed, sized(digest.digest()))
        )

    def sign(self, message: bytes) -> bytes:
        """TPMT_SIGNATURE over a message."""
        if isinstance(self.key, rsa.RSAPrivateKey):
            value = self.key.sign(message, padding.PKCS1v15(), hashes.SHA256())
            return struct.pack(">HH", 0x14, 0xB) + sized(value)
        r, s = decode_dss_signature(self.key.sign(message, ec.ECDSA(hashes.SHA256())))
        return struct.pack(">HH", 0x18, 0xB) + sized(r.to_bytes(32)) + sized(s.to_bytes(32))

    def quote(self, nonce: bytes, selection: Mapping[str, Sequence[int]] | None = None) -> Quote:
        """A quote, with the values of the PCRs it covers."""
        chosen = {"sha256": REQUIRED} if selection is None else selection
        message = self.attest(nonce, tuple(chosen.items()))
        values = {bank: {i: self.pcr(bank, i) for i in indices} for bank, indices in chosen.items()}
        return Quote(message, self.sign(message), values)

    def evidence(self, nonce: bytes, selection: Mapping[str, Sequence[int]] | None = None) -> TpmEvidence:
        """Evidence of kind ``tpm``."""
        return TpmEvidence(self.quote(nonce, selection), self.public)
