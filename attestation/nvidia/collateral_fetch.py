"""Fetching what it takes to judge this machine's GPUs, so that its clients need to ask NVIDIA nothing.

A node looks up the manifests that its own reports call for and the revocation of every certificate on the
way, checks them as a client will, and keeps them for stapling. Who verifies whom is then nobody's business
but the two of them.
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise
from typing import Final, Protocol

from attestation.certificate import Certificate
from attestation.errors import AttestationError, EvidenceMalformed
from attestation.nvidia import ocsp
from attestation.nvidia.c14n import parse_document
from attestation.nvidia.chain import parse_chain, verify_chain
from attestation.nvidia.collateral_cache import MAX_PIECE, CollateralCache
from attestation.nvidia.device import LS10
from attestation.nvidia.errors import CollateralFault
from attestation.nvidia.evidence import GpuEvidence, parse_evidence_list
from attestation.nvidia.opaque import read_gpu_fields, read_switch_bios_version
from attestation.nvidia.policy import GpuPolicy
from attestation.nvidia.rim import Rim, check_rim, verify_rim
from attestation.nvidia.rim_id import RimRequest, collateral_name, gpu_rims, switch_rim
from attestation.nvidia.spdm import parse_report
from attestation.nvidia.xmldsig import open_envelope
from attestation.strict_json import base64_bytes, load_object

RIM_SERVICE: Final = "https://rim.attestation.nvidia.com/v1/rim/"
OCSP_RESPONDER: Final = "https://ocsp.ndis.nvidia.com"
MAX_ANSWER: Final = 512 * 1024
"""Bytes of an HTTP answer at most (a manifest in base64, with a few words around it)."""

TIMEOUT_SECONDS: Final = 20.0

_OCSP_NONCE_BYTES: Final = 32
_STAGE: Final = "collateral"


class Network(Protocol):
    """How a fetcher reaches the world. Both methods raise `CollateralFault` (``fetch_failed``)."""

    def get(self, url: str) -> bytes:
        """The body of an answer with status 200, of at most `MAX_ANSWER` bytes."""
        ...

    def post(self, url: str, body: bytes, media_type: str) -> bytes:
        """The body of an answer with status 200, of at most `MAX_ANSWER` bytes."""
        ...


class HttpsNetwork:
    """The real one: HTTPS only, no redirects, bounded in time and size.

    ``bearer`` is a service key that goes with every request, so such a network is for one service alone.
    """

    def __init__(self, bearer: str | None = None) -> None:
        self._headers = {} if bearer is None else {"authorization": f"Bearer {bearer}"}

    def get(self, url: str) -> bytes:
        """See `Network`."""
        return self._request("GET", url, None, None)

    def post(self, url: str, body: bytes, media_type: str) -> bytes:
        """See `Network`."""
        return self._request("POST", url, body, media_type)

    def _request(self, method: str, url: str, body: bytes | None, media_type: str | None) -> bytes:
        import httpx2  # here, so that whoever only verifies does not load it

        if not url.startswith("https://"):
            raise _fault("fetch_failed", f"not an https address: {url[:80]}")
        headers = self._headers if media_type is None else {**self._headers, "content-type": media_type}
        try:
            with httpx2.stream(
                method,
                url,
                content=body,
                headers=headers,
                timeout=TIMEOUT_SECONDS,
                follow_redirects=False,
            ) as response:
                if response.status_code != 200:
                    raise _fault("fetch_failed", url, 200, response.status_code, retryable=True)
                data = bytearray()
                for piece in response.iter_bytes():
                    data += piece
                    if len(data) > MAX_ANSWER:
                        raise _fault("fetch_failed", f"{url}: answer too large", MAX_ANSWER)
        except httpx2.HTTPError as error:
            raise _fault("fetch_failed", f"{url}: {type(error).__name__}", retryable=True) from None
        return bytes(data)


@dataclass(frozen=True, slots=True)
class Refreshed:
    """What a refresh came to: the names of all pieces needed, and what went wrong with some of them.

    A piece that could not be fetched may still be in the cache from before.
    """

    names: tuple[str, ...]
    failures: tuple[AttestationError, ...]


class CollateralFetcher:
    """Keeps a cache filled for the devices of one machine.

    ``now`` gives the time (aware), ``entropy(n)`` n random bytes for the nonces of OCSP requests. ``policy``
    names the roots that manifests and devices must lead to.
    """

    def __init__(
        self,
        network: Network,
        cache: CollateralCache,
        policy: GpuPolicy,
        *,
        now: Callable[[], datetime],
        entropy: Callable[[int], bytes],
    ) -> None:
        self._network = network
        self._cache = cache
        self._policy = policy
        self._now = now
        self._entropy = entropy

    def refresh(self, section: bytes) -> Refreshed:
        """Fetch everything for the devices of a GPU section (the JSON list as collected) into the cache.

        Raises the `AttestationError` of evidence that cannot be read or does not lead to a pinned root; all
        that concerns a single piece is in the result instead.
        """
        names: dict[str, None] = {}
        failures: list[AttestationError] = []
        for entry in parse_evidence_list(section):
            chain = verify_chain(parse_chain(entry.certificate), roots=self._policy.roots, at=self._now())
            simulated = chain.root_sha256 == self._policy.simulated_root
            # The first certificate is made on the device itself and registered nowhere.
            self._refresh_path(chain.chain.certificates[1:], names, failures)
            for request in needed_rims(entry):
                name = collateral_name(request.id)
                if name in names:
                    continue
                names[name] = None
                try:
                    rim = self._fetch_rim(request, simulated=simulated)
                except AttestationError as error:
                    failures.append(error)
                else:
                    self._refresh_path(rim.certificates, names, failures)
        return Refreshed(tuple(names), tuple(failures))

    def _refresh_path(
        self, path: Sequence[Certificate], names: dict[str, None], failures: list[AttestationError]
    ) -> None:
        for subject, issuer in pairwise(path):
            name = ocsp.collateral_name(subject)
            if name in names:
                continue
            names[name] = None
            try:
                self._fetch_status(subject, issuer)
            except AttestationError as error:
                failures.append(error)

    def _fetch_rim(self, request: RimRequest, *, simulated: bool) -> Rim:
        data = read_rim_answer(self._network.get(RIM_SERVICE + request.id), request.id)
        rim = verify_rim(data, roots=self._policy.rim_roots(simulated=simulated), at=self._now())
        check_rim(rim, request)
        self._cache.put(collateral_name(request.id), data, self._now())
        return rim

    def _fetch_status(self, subject: Certificate, issuer: Certificate) -> None:
        nonce = self._entropy(_OCSP_NONCE_BYTES)
        data = self._network.post(
            OCSP_RESPONDER, ocsp_request(subject, issuer, nonce), "application/ocsp-request"
        )
        # A revoked certificate is kept too: who verifies the node must see it.
        ocsp.check_status(
            data,
            subject=subject,
            issuer=issuer,
            at=self._now(),
            max_age=self._policy.ocsp_max_age,
            nonce=nonce,
        )
        self._cache.put(ocsp.collateral_name(subject), data, self._now())


def needed_names(section: bytes, cache: CollateralCache) -> tuple[str, ...]:
    """The names of all collateral that the devices of a GPU section call for, as far as the cache can tell.

    Which responses a manifest's signers need is known once the manifest is there. Raises the errors of
    evidence that cannot be read, and of the cache.
    """
    names: dict[str, None] = {}
    for entry in parse_evidence_list(section):
        chain = parse_chain(entry.certificate)
        names |= dict.fromkeys(ocsp.collateral_name(one) for one in chain.certificates[1:-1])
        for request in needed_rims(entry):
            name = collateral_name(request.id)
            names[name] = None
            for data in cache.staple([name]).values():
                path = open_envelope(parse_document(data)).certificates
                names |= dict.fromkeys(f"ocsp/{hashlib.sha256(one).hexdigest()}" for one in path[:-1])
    return tuple(names)


def needed_rims(entry: GpuEvidence) -> Sequence[RimRequest]:
    """The manifests that a device's report calls for. Raises the errors of the report and its fields."""
    report = parse_report(entry.evidence)
    if entry.arch == LS10:
        return [switch_rim(read_switch_bios_version(report.opaque))]
    return gpu_rims(entry.arch, report.opaque, read_gpu_fields(report.opaque))


def read_rim_answer(data: bytes, rim_id: str) -> bytes:
    """The manifest in an answer of NVIDIA's RIM service (JSON with ``id`` and ``rim`` in base64).

    What else the service says of it is not used: a manifest proves itself by its signature. Raises
    `CollateralFault` (``rim_answer``).
    """
    try:
        document = load_object(data, limit=MAX_ANSWER, code="rim_answer")
        manifest = base64_bytes(document.get("rim"), limit=MAX_PIECE, code="rim_answer", where="rim")
    except EvidenceMalformed as error:
        raise _fault("rim_answer", error.detail) from None
    if document.get("id") != rim_id:
        raise _fault("rim_answer", "another manifest than was asked for", rim_id, document.get("id"))
    return manifest


def ocsp_request(subject: Certificate, issuer: Certificate, nonce: bytes) -> bytes:
    """An OCSP request (RFC 6960) about ``subject`` in DER, with a certificate id by SHA-384 as NVIDIA's tools
    send it, and a nonce (RFC 9654: 32 bytes).

    Raises `CollateralFault` (``ocsp_request``).
    """
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.serialization import Encoding
    from cryptography.x509.ocsp import OCSPRequestBuilder

    try:
        builder = OCSPRequestBuilder().add_certificate(
            x509.load_der_x509_certificate(subject.raw),
            x509.load_der_x509_certificate(issuer.raw),
            hashes.SHA384(),
        )
        return builder.add_extension(x509.OCSPNonce(nonce), critical=False).build().public_bytes(Encoding.DER)
    except ValueError as error:
        raise _fault("ocsp_request", str(error)[:80]) from None


def _fault(
    code: str, detail: str, expected: object = None, found: object = None, *, retryable: bool = False
) -> CollateralFault:
    return CollateralFault(
        code=code, stage=_STAGE, detail=detail, expected=expected, found=found, retryable=retryable
    )
