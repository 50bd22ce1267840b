"""Intel's provisioning certification service, version 4, and caches that speak its interface (PCCS).

What Intel signed is kept as it was served: the signature is over those bytes and no others.
"""

from typing import Final
from urllib.parse import unquote

from ..certificate import Certificate, RevocationList
from ..errors import AttestationError
from ..tdx.chain import read_pem
from ..tdx.collateral import TdxCollateral, split_served
from ..tdx.pck import read_platform
from ..tdx.quote import parse_quote
from .network import Answer, FetchFailed, Network

INTEL_PCS: Final = "https://api.trustedservices.intel.com"
ROOT_CA_CRL: Final = "https://certificates.trustedservices.intel.com/IntelSGXRootCA.der"

_MAX_CHAIN: Final = 64 * 1024
_CAS: Final = {"Intel SGX PCK Platform CA": "platform", "Intel SGX PCK Processor CA": "processor"}


def fetch_tdx(
    quote: bytes, network: Network, *, base: str = INTEL_PCS, root_ca_crl: str = ROOT_CA_CRL
) -> dict[str, bytes]:
    """Collateral of a TDX quote, by the names of ``TdxCollateral``. Raises FetchFailed, EvidenceMalformed."""
    parsed = parse_quote(quote)
    try:
        chain = read_pem(parsed.pck_chain)
        leaf, issuer = (Certificate.parse(data) for data in chain[:2])
        platform = read_platform(leaf)
    except (ValueError, AttestationError) as error:
        raise FetchFailed(code="fetch_failed", detail=f"the quote's PCK chain: {error}") from None
    ca = _CAS.get(issuer.common_name)
    if ca is None:
        raise FetchFailed(code="fetch_failed", detail="the quote's PCK chain is by another CA than Intel's")
    tdx, sgx = f"{base}/tdx/certification/v4", f"{base}/sgx/certification/v4"
    tcb = network.get(f"{tdx}/tcb?fmspc={platform.fmspc.hex()}")
    enclave = network.get(f"{tdx}/qe/identity")
    pck_crl = network.get(f"{sgx}/pckcrl?ca={ca}&encoding=der")
    try:
        tcb_info, tcb_signature = split_served(tcb.body, "tcbInfo")
        qe_identity, qe_signature = split_served(enclave.body, "enclaveIdentity")
    except AttestationError as error:
        raise FetchFailed(code="fetch_failed", detail=str(error)) from None
    pieces = {
        "pck_crl_issuer_chain": _chain(pck_crl, "sgx-pck-crl-issuer-chain"),
        "root_ca_crl": _revocation_list(network.get(root_ca_crl), "root_ca_crl"),
        "pck_crl": _revocation_list(pck_crl, "pck_crl"),
        "tcb_info_issuer_chain": _chain(tcb, "tcb-info-issuer-chain"),
        "tcb_info": tcb_info,
        "tcb_info_signature": tcb_signature,
        "qe_identity_issuer_chain": _chain(enclave, "sgx-enclave-identity-issuer-chain"),
        "qe_identity": qe_identity,
        "qe_identity_signature": qe_signature,
    }
    TdxCollateral.from_members(pieces)
    return pieces


def _revocation_list(answer: Answer, name: str) -> bytes:
    try:
        RevocationList.parse(answer.body)
    except AttestationError as error:
        raise FetchFailed(code="fetch_failed", detail=f"{name}: {error}") from None
    return answer.body


def _chain(answer: Answer, header: str) -> bytes:
    text = answer.headers.get(header)
    if text is None or len(text) > _MAX_CHAIN:
        raise FetchFailed(code="fetch_failed", detail=f"the answer has no chain in its header {header}")
    chain = unquote(text).encode()
    try:
        read_pem(chain)
    except AttestationError as error:
        raise FetchFailed(code="fetch_failed", detail=f"{header}: {error}") from None
    return chain
