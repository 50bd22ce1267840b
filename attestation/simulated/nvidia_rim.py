"""Reference manifests of the simulated GPUs and switches, signed in NVIDIA's form under a root of their own.

They name what simulated devices measure (`nvidia_report.measurement`), which is the digest of no real
firmware. Documents that no verifier should take can be made too, by changing what is signed or by whom.
"""

import base64
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from xml.sax.saxutils import quoteattr

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding

from attestation.nvidia.c14n import canonical, parse_document
from attestation.nvidia.xmldsig import C14N_11, DSIG, ECDSA_SHA384, ENVELOPED, SHA384
from attestation.simulated.nvidia_certificates import (
    Authority,
    below,
    load_authority,
    name_of,
    new_key,
    save_authority,
    self_signed,
    usage,
)
from attestation.simulated.nvidia_ocsp import Answer, answer, response_name
from attestation.simulated.nvidia_report import (
    BLACKWELL,
    DRIVER_INDICES,
    PROJECT,
    VBIOS_INDICES,
    GpuSettings,
    SwitchSettings,
    measurement,
    switch_measurement,
)

_SWID = "http://standards.iso.org/iso/19770/-2/2015/schema.xsd"
_TCG = "https://trustedcomputinggroup.org/resource/tcg-reference-integrity-manifest-rim-information-model/"
_VALUES = "http://www.w3.org/2001/04/xmlenc#sha384"
_MAKER = "Cloister simulated platform (not NVIDIA)"
_ENTRIES = 64


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a manifest says: ``measurements`` maps active indices to their allowed digests."""

    version: str
    product: str
    measurements: Mapping[int, Sequence[bytes]]
    edition: str = "GPU"


@dataclass(frozen=True, slots=True)
class SimulatedRimPki:
    """The authorities of reference values: root, chip family, issuer, and the signer below them."""

    root: Authority
    family: Authority
    issuer: Authority
    signer: Authority

    @classmethod
    def create(cls) -> "SimulatedRimPki":
        """Make a root, the two authorities below it, and a signer, with new keys."""
        root = self_signed("Simulated CoRIM signing Root CA")
        family = below(root, "Simulated Reference Value GH100 CA")
        issuer = below(family, "Simulated Reference Value L3 GH100 001")
        key = new_key()
        name = name_of("Simulated RIM L4 Signer")
        certificate = issuer.issue(key.public_key(), name, (usage(digital_signature=True), True))
        return cls(root, family, issuer, Authority(key, certificate))

    @classmethod
    def open(cls, folder: Path) -> "SimulatedRimPki":
        """The authorities kept in ``folder``, made at first use. Raises `PlatformFault`."""
        names = ("signer", "issuer", "family", "root")
        if (folder / "rim-root.pem").exists():
            return cls(**{name: load_authority(folder, f"rim-{name}") for name in names})
        pki = cls.create()
        for name in names:  # the root last, as the mark of a complete set
            save_authority(folder, f"rim-{name}", getattr(pki, name))
        return pki

    @property
    def root_sha256(self) -> str:
        """SHA-256 of the root certificate's DER, in lower-case hexadecimal: what a policy names."""
        return self.root.sha256

    @property
    def path(self) -> tuple[x509.Certificate, ...]:
        """The signer's certificates, leaf first."""
        authorities = (self.signer, self.issuer, self.family, self.root)
        return tuple(authority.certificate for authority in authorities)

    def gpu_rims(self, settings: GpuSettings) -> dict[str, bytes]:
        """Both manifests of a GPU with these settings, as collateral."""
        values = {index: (measurement(index, settings),) for index in (*DRIVER_INDICES, *VBIOS_INDICES)}
        driver = Manifest(settings.driver_version, settings.chip, _only(values, DRIVER_INDICES))
        vbios = Manifest(settings.vbios_version, settings.chip, _only(values, VBIOS_INDICES))
        family = "NV_GPU_CC_DRIVER" if settings.arch == BLACKWELL else "NV_GPU_DRIVER"
        board = "_".join((*PROJECT, settings.vbios_version.replace(".", "")))
        return {
            f"rim/{family}_{settings.chip}_{settings.driver_version}": self.mint(driver),
            f"rim/NV_GPU_VBIOS_{board}": self.mint(vbios),
        }

    def switch_rims(self, settings: SwitchSettings) -> dict[str, bytes]:
        """The manifest of a switch's BIOS, as collateral."""
        values = {index: (switch_measurement(index, settings),) for index in range(31)}
        manifest = Manifest(settings.bios_version, "LS10", values, edition="SWITCH")
        version = settings.bios_version.replace(".", "")
        return {f"rim/NV_SWITCH_BIOS_5612_0002_890_{version}": self.mint(manifest)}

    def mint(self, manifest: Manifest) -> bytes:
        """A signed manifest."""
        return self.sign(document(manifest))

    def sign(self, unsigned: str, key: ec.EllipticCurvePrivateKey | None = None) -> bytes:
        """Sign a document (which ends in its root's end tag) with the signer's key, or with ``key``."""
        digest = hashlib.sha384(canonical(parse_document(unsigned.encode()))).digest()
        head, end = unsigned.rsplit("</", 1)
        with_info = f"{head}{_signature(digest, '', '')}</{end}"
        signature = parse_document(with_info.encode()).elements[-1]
        r, s = decode_dss_signature(
            (key or self.signer.key).sign(canonical(signature.elements[0]), ec.ECDSA(hashes.SHA384()))
        )
        value = base64.b64encode(r.to_bytes(48, "big") + s.to_bytes(48, "big")).decode()
        return f"{head}{_signature(digest, value, _key_info(self.path))}</{end}".encode()

    def ocsp(self, at: datetime, how: Answer | None = None) -> dict[str, bytes]:
        """OCSP responses about the signer's path but its root, made at ``at``, as collateral.

        ``how`` is the answer about the signer; the others are good.
        """
        responses = {}
        issuers = (self.issuer, self.family, self.root)
        for place, ((subject, _), issuer) in enumerate(zip(pairwise(self.path), issuers, strict=True)):
            stated = how if how is not None and place == 0 else Answer()
            responses[response_name(subject)] = answer(subject, issuer, at, stated)
        return responses


def document(manifest: Manifest) -> str:
    """A manifest's document before it is signed."""
    product = quoteattr(manifest.product)
    tag = hashlib.sha384(f"{manifest.product} {manifest.version} {manifest.edition}".encode()).hexdigest()
    lines = [
        f'<SoftwareIdentity xmlns="{_SWID}" xmlns:ns0="{_SWID}" xmlns:ns2="{_VALUES}" corpus="false" '
        f'name={product} patch="false" supplemental="false" tagId="{tag}" version="1.0" tagVersion="0">',
        f'    <ns0:Entity name="{_MAKER}" role="softwareCreator tagCreator"/>',
        f'    <ns0:Meta xmlns:ns1="{_TCG}" colloquialVersion={quoteattr(manifest.version)} '
        f'edition={quoteattr(manifest.edition)} product={product} revision="r1" PayloadType="direct" '
        f'ns1:BindingSpec="RIMIM" ns1:BindingSpecVersion="1.01" ns1:PlatformManufacturerId="5703" '
        f'ns1:PlatformManufacturerStr="{_MAKER}" ns1:PlatformModel={product} '
        f'ns1:FirmwareManufacturer="{_MAKER}" ns1:FirmwareManufacturerId="5703"/>',
        f'    <ns0:Payload xmlns:SHA384="{_VALUES}">',
        *(_resource(index, manifest.measurements.get(index)) for index in range(_ENTRIES)),
        "    </ns0:Payload>",
        "</SoftwareIdentity>",
    ]
    return "\n".join(lines)


def _resource(index: int, digests: Sequence[bytes] | None) -> str:
    values = digests or [bytes(48)]
    hashed = " ".join(f'ns2:Hash{place}="{digest.hex()}"' for place, digest in enumerate(values))
    return (
        f'        <ns0:Resource type="Measurement" index="{index}" active="{digests is not None}" '
        f'alternatives="{len(values)}" {hashed} name="Measurement_{index}" size="48"/>'
    )


def _signature(digest: bytes, value: str, key_info: str) -> str:
    return (
        f'<ds:Signature xmlns:ds="{DSIG}"><ds:SignedInfo>'
        f'<ds:CanonicalizationMethod Algorithm="{C14N_11}"/>'
        f'<ds:SignatureMethod Algorithm="{ECDSA_SHA384}"/>'
        f'<ds:Reference URI=""><ds:Transforms><ds:Transform Algorithm="{ENVELOPED}"/>'
        f'<ds:Transform Algorithm="{C14N_11}"/></ds:Transforms><ds:DigestMethod Algorithm="{SHA384}"/>'
        f"<ds:DigestValue>{base64.b64encode(digest).decode()}</ds:DigestValue></ds:Reference>"
        f"</ds:SignedInfo><ds:SignatureValue>{value}</ds:SignatureValue>{key_info}</ds:Signature>"
    )


def _key_info(path: Sequence[x509.Certificate]) -> str:
    texts = (base64.encodebytes(certificate.public_bytes(Encoding.DER)).decode() for certificate in path)
    certificates = "".join(f"<ds:X509Certificate>{text}</ds:X509Certificate>" for text in texts)
    return f"<ds:KeyInfo><ds:X509Data>{certificates}</ds:X509Data></ds:KeyInfo>"


def _only(values: Mapping[int, Sequence[bytes]], indices: Sequence[int]) -> dict[int, Sequence[bytes]]:
    return {index: values[index] for index in indices}
