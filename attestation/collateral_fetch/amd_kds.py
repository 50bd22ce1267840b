"""AMD's key distribution service (AMD 57230, "VCEK Certificate and KDS Interface Specification", chapter 4)."""

from collections.abc import Callable, Mapping
from typing import Final

from ..certificate import Certificate, RevocationList
from ..errors import AttestationError
from ..sev_snp_certificates import certified_product
from ..sev_snp_report import Product, Report, parse_report, read_tcb
from ..tdx.chain import read_pem
from .network import FetchFailed, KeptAnswers, Network

AMD_KDS: Final = "https://kdsintf.amd.com"

_VLEK: Final = 1
_TURIN_HWID: Final = 8


def fetch_snp(
    report: bytes,
    network: Network,
    *,
    vek: bytes | None = None,
    product: Product | None = None,
    base: str = AMD_KDS,
    kept: KeptAnswers | None = None,
) -> dict[str, bytes]:
    """Collateral of an SEV-SNP report: ``vek``, ``ask``, ``ark`` and ``crl``, DER.

    ``vek`` is a certificate that is at hand already, and must be where a VLEK signed: the service gives those
    to cloud providers alone. ``product`` is needed for a report of version 2, which does not say it. Raises
    FetchFailed, EvidenceMalformed.
    """
    parsed = parse_report(report)
    vlek = parsed.signing_key == _VLEK
    if vek is None and vlek:
        raise FetchFailed(
            code="collateral_missing",
            expected="vek",
            detail="a VLEK is the cloud provider's to give, not AMD's",
        )
    line = _line(parsed, vek, product)
    if vek is None:
        vek = _get(vcek_url(parsed, line, base=base), network, kept, _require_vek)
    else:
        _require_vek(vek)
    path = f"{base}/{'vlek' if vlek else 'vcek'}/v1/{line.capitalize()}"
    ask, ark = _read_chain(_get(f"{path}/cert_chain", network, kept, _require_chain))
    crl = network.get(f"{path}/crl").body
    try:
        RevocationList.parse(crl)
    except AttestationError as error:
        raise FetchFailed(code="fetch_failed", detail=f"crl: {error}") from None
    return {"vek": vek, "ask": ask, "ark": ark, "crl": crl}


def vcek_url(report: Report, product: Product, *, base: str = AMD_KDS) -> str:
    """Where the VCEK of the chip and TCB version in a report is. Raises FetchFailed for a masked chip."""
    if report.chip_id_masked:
        raise FetchFailed(
            code="collateral_missing", expected="vek", detail="the report hides which chip it is of"
        )
    chip = report.chip_id[:_TURIN_HWID] if product is Product.TURIN else report.chip_id
    tcb = read_tcb(report.reported_tcb, product)
    parts = {"blSPL": tcb.bl, "teeSPL": tcb.tee, "snpSPL": tcb.snp, "ucodeSPL": tcb.ucode}
    if product is Product.TURIN:
        parts = {"fmcSPL": tcb.fmc, **parts}
    query = "&".join(f"{name}={level:02d}" for name, level in parts.items())
    return f"{base}/vcek/v1/{product.capitalize()}/{chip.hex()}?{query}"


def _line(report: Report, vek: bytes | None, product: Product | None) -> Product:
    found = report.cpuid.product if report.cpuid else product
    if found is None and vek is not None:
        found = certified_product(Certificate.parse(vek))
    if found is None:
        raise FetchFailed(
            code="product_unknown", detail="a report of version 2 does not say its processor line: name it"
        )
    return found


def _get(url: str, network: Network, kept: KeptAnswers | None, check: Callable[[bytes], None]) -> bytes:
    if kept is not None:
        return kept.get(url, network, check)
    body = network.get(url).body
    check(body)
    return body


def _read_chain(data: bytes) -> tuple[bytes, bytes]:
    try:
        chain = read_pem(data)
    except AttestationError as error:
        raise FetchFailed(code="fetch_failed", detail=f"cert_chain: {error}") from None
    if len(chain) != 2:
        raise FetchFailed(code="fetch_failed", detail=f"a chain of {len(chain)} certificates, not of two")
    ask, ark = chain
    for name, certificate in (("ask", ask), ("ark", ark)):
        _require_certificate(certificate, name)
    return ask, ark


def _require_chain(data: bytes) -> None:
    _read_chain(data)


def _require_vek(data: bytes) -> None:
    _require_certificate(data, "vek")


def _require_certificate(data: bytes, name: str) -> None:
    try:
        Certificate.parse(data)
    except AttestationError as error:
        raise FetchFailed(code="fetch_failed", detail=f"{name}: {error}") from None


PRODUCTS: Final[Mapping[str, Product]] = {product.value: product for product in Product}
"""Names of processor lines, for a command line."""
