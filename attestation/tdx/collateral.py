"""What it takes to check a TDX quote besides the quote: bytes from Intel's certification service (PCS), as served.

``TdxCollateral`` is those bytes. ``AuthenticCollateral`` is what they say once every signature in them has been
checked up to a pinned root; dates and revocation depend on the moment, and are never part of it.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from datetime import datetime
from typing import Any, Final, NamedTuple

from ..certificate import Certificate, RevocationList
from ..errors import ChainUntrusted, CollateralInvalid, EvidenceMalformed
from ..strict_json import load_object
from .chain import PckChain, Revocations, Signer, Trust, read_pem, read_revocations
from .qe_identity import QeIdentity, read_qe_identity
from .signed_document import MAX_DOCUMENT, Document
from .tcb_info import TcbInfo, read_tcb_info

MAX_COLLATERAL: Final = 2 * 1024 * 1024
_SIGNATURE_BYTES: Final = 64
_SERVED: Final = {"tcbInfo", "enclaveIdentity"}
_HEX: Final = frozenset({"root_ca_crl", "pck_crl", "tcb_info_signature", "qe_identity_signature"})


@dataclass(frozen=True, slots=True)
class TdxCollateral:
    """Collateral of one kind of platform. Chains are PEM, issuer after subject; revocation lists are DER.

    ``tcb_info`` and ``qe_identity`` are the exact bytes that Intel signed; signatures are 64 bytes, r ‖ s.
    """

    pck_crl_issuer_chain: bytes
    root_ca_crl: bytes
    pck_crl: bytes
    tcb_info_issuer_chain: bytes
    tcb_info: bytes
    tcb_info_signature: bytes
    qe_identity_issuer_chain: bytes
    qe_identity: bytes
    qe_identity_signature: bytes

    @classmethod
    def from_members(cls, members: Mapping[str, bytes]) -> "TdxCollateral":
        """The pieces by name, as a bundle carries them.

        Raises ChainUntrusted: ``collateral_unknown`` for a name that is none, ``collateral_missing``.
        """
        unknown = sorted(members.keys() - set(COLLATERAL_NAMES))
        if unknown:
            raise ChainUntrusted(code="collateral_unknown", stage="collateral", found=ascii(unknown[0][:60]))
        for name in COLLATERAL_NAMES:
            if name not in members:
                raise collateral_missing(name)
        return cls(**{name: bytes(members[name]) for name in COLLATERAL_NAMES})

    @classmethod
    def from_json(cls, data: bytes) -> "TdxCollateral":
        """The pieces from one JSON object: texts, with signatures and revocation lists in hexadecimal.

        Raises ChainUntrusted as ``from_members``; EvidenceMalformed (``collateral_malformed``).
        """
        code = "collateral_malformed"
        members = {}
        for name, value in load_object(data, limit=MAX_COLLATERAL, code=code).items():
            if not isinstance(value, str):
                raise EvidenceMalformed(code=code, stage="collateral", detail=f"{name[:40]} is not a text")
            try:
                members[name] = bytes.fromhex(value) if name in _HEX else value.encode()
            except ValueError:
                raise EvidenceMalformed(
                    code=code, stage="collateral", detail=f"{name} cannot be decoded"
                ) from None
        return cls.from_members(members)

    def earliest_expiry(self) -> datetime:
        """When the first of these pieces runs out, whoever signed them. Raises AttestationError."""
        chains = (self.pck_crl_issuer_chain, self.tcb_info_issuer_chain, self.qe_identity_issuer_chain)
        times = [Certificate.parse(data).not_after for chain in chains for data in read_pem(chain)]
        times += [RevocationList.parse(data).next_update for data in (self.root_ca_crl, self.pck_crl)]
        for name, data in (("tcb_info", self.tcb_info), ("qe_identity", self.qe_identity)):
            document = load_object(data, limit=MAX_DOCUMENT, code=f"{name}_malformed")
            times.append(Document(document, name).time("nextUpdate"))
        return min(times)


COLLATERAL_NAMES: Final = tuple(piece.name for piece in fields(TdxCollateral))
"""Names of the pieces, in the bundle and in files."""


class Signers(NamedTuple):
    """Who signed the collateral: TCB Info, QE Identity, and the PCK revocation list."""

    tcb_info: Signer
    qe_identity: Signer
    pck_crl: Signer


class AuthenticCollateral(NamedTuple):
    """Collateral whose signatures were checked up to a pinned root. Immutable: it may serve many appraisals.

    ``root`` is SHA-256 of the root certificate, in hexadecimal.
    """

    collateral: TdxCollateral
    root: str
    signers: Signers
    revocations: Revocations
    tcb_info: TcbInfo
    qe_identity: QeIdentity

    @property
    def issued(self) -> tuple[tuple[Certificate, Certificate], ...]:
        """(subject, issuer) pairs whose signature needs no further check."""
        signers = (self.signers.tcb_info, self.signers.qe_identity, self.signers.pck_crl)
        return tuple((signer.certificate, signer.root) for signer in signers)


def authenticate(collateral: TdxCollateral, roots: frozenset[str]) -> AuthenticCollateral:
    """Check every signature in ``collateral`` up to one of ``roots`` (SHA-256, hexadecimal), dates aside.

    Raises ChainUntrusted, CertificateMalformed, RevocationFailed, CollateralInvalid or TcbRejected.
    """
    signers = read_signers(collateral, Trust(roots))
    return AuthenticCollateral(
        collateral=collateral,
        root=signers.pck_crl.root.sha256.hex(),
        signers=signers,
        revocations=read_lists(collateral, signers),
        tcb_info=read_levels(collateral, signers),
        qe_identity=read_enclave(collateral, signers),
    )


def read_signers(collateral: TdxCollateral, trust: Trust) -> Signers:
    """The chains of the collateral's signers, checked up to one pinned root. Raises ChainUntrusted."""
    signers = Signers(
        tcb_info=trust.tcb_signer(collateral.tcb_info_issuer_chain),
        qe_identity=trust.tcb_signer(collateral.qe_identity_issuer_chain),
        pck_crl=trust.pck_ca(collateral.pck_crl_issuer_chain),
    )
    if not signers.tcb_info.root.raw == signers.qe_identity.root.raw == signers.pck_crl.root.raw:
        raise ChainUntrusted(code="chain_untrusted", detail="the chains end at different roots")
    return signers


def read_lists(collateral: TdxCollateral, signers: Signers) -> Revocations:
    """The revocation lists, rightly signed. Raises as ``read_revocations``."""
    issuer = signers.pck_crl
    return read_revocations(collateral.root_ca_crl, collateral.pck_crl, issuer.root, issuer.certificate)


def read_levels(collateral: TdxCollateral, signers: Signers) -> TcbInfo:
    """TCB Info, rightly signed. Raises as ``read_tcb_info``."""
    key = signers.tcb_info.certificate.public_key
    return read_tcb_info(collateral.tcb_info, collateral.tcb_info_signature, key)


def read_enclave(collateral: TdxCollateral, signers: Signers) -> QeIdentity:
    """QE Identity, rightly signed. Raises as ``read_qe_identity``."""
    key = signers.qe_identity.certificate.public_key
    return read_qe_identity(collateral.qe_identity, collateral.qe_identity_signature, key)


@dataclass(frozen=True, slots=True)
class CollateralCache:
    """What earlier checks found authentic, of the very same bytes. Immutable: adding gives a larger one.

    ``entries`` are collateral, by the signatures in it, and every byte is compared. ``chains`` are PCK chains as
    quotes carry them, by their PEM text; quotes of one platform carry the same one. Dates and revocation are checked
    anew each time.
    """

    entries: Mapping[bytes, AuthenticCollateral] = field(default_factory=dict)
    chains: Mapping[bytes, PckChain] = field(default_factory=dict)

    @classmethod
    def of(cls, *entries: AuthenticCollateral) -> "CollateralCache":
        """A cache of these."""
        return cls({_signatures(entry.collateral): entry for entry in entries})

    def adding(self, entry: AuthenticCollateral) -> "CollateralCache":
        """A cache of these and one more."""
        return CollateralCache({**self.entries, _signatures(entry.collateral): entry}, self.chains)

    def adding_chain(self, pem: bytes, chain: PckChain) -> "CollateralCache":
        """A cache of these and the chain that ``Trust.pck_chain`` gave for this text."""
        return CollateralCache(self.entries, {**self.chains, pem: chain})

    def learning(
        self, collateral: TdxCollateral, pem: bytes, roots: frozenset[str], limit: int
    ) -> "CollateralCache":
        """A cache of these, this collateral and the PCK chain in ``pem``, at most ``limit`` of each.

        Both are checked up to ``roots``, dates aside; the oldest make room. Raises as ``authenticate``.
        """
        known = self
        if known.find(collateral, roots) is None:
            known = known.adding(authenticate(collateral, roots))
        if known.find_chain(pem, roots) is None:
            known = known.adding_chain(pem, Trust(roots).pck_chain(pem))
        if known is self:
            return self
        entries, chains = list(known.entries.items())[-limit:], list(known.chains.items())[-limit:]
        return CollateralCache(dict(entries), dict(chains))

    def find_chain(self, pem: bytes, roots: frozenset[str]) -> PckChain | None:
        """What is known of exactly this text under one of these roots."""
        found = self.chains.get(pem)
        return found if found is not None and found.root.sha256.hex() in roots else None

    def find(self, collateral: TdxCollateral, roots: frozenset[str]) -> AuthenticCollateral | None:
        """What is known of exactly these bytes under one of these roots."""
        found = self.entries.get(_signatures(collateral))
        if found is None or found.collateral != collateral or found.root not in roots:
            return None
        return found


def _signatures(collateral: TdxCollateral) -> bytes:
    """What tells sets of collateral apart: the signatures of their documents, and the ends of their lists'."""
    lists = collateral.root_ca_crl[-_SIGNATURE_BYTES:] + collateral.pck_crl[-_SIGNATURE_BYTES:]
    return collateral.tcb_info_signature + collateral.qe_identity_signature + lists


def split_served(body: bytes, member: str) -> tuple[bytes, bytes]:
    """The signed bytes and the signature out of an answer of Intel's service, as it was served.

    ``member`` is ``tcbInfo`` or ``enclaveIdentity``. Raises CollateralInvalid (``collateral_malformed``).
    """
    if member not in _SERVED:
        raise ValueError(member)
    try:
        text = body.decode("utf-8")
        start = text.index(":", text.index(f'"{member}"')) + 1
        start += len(text[start:]) - len(text[start:].lstrip())
        value, end = json.JSONDecoder().raw_decode(text, start)
        whole: Any = json.loads(text)
        signature = bytes.fromhex(whole["signature"])
        if len(whole) != 2 or whole[member] != value or len(signature) != 64:
            raise ValueError("other members")
    except (ValueError, KeyError, TypeError, RecursionError):
        raise CollateralInvalid(
            code="collateral_malformed", detail=f"not an answer with {member} and its signature"
        ) from None
    return text[start:end].encode(), signature


def collateral_missing(name: str) -> ChainUntrusted:
    """The error for a piece that did not come with the evidence."""
    return ChainUntrusted(code="collateral_missing", stage="collateral", expected=name, retryable=True)
