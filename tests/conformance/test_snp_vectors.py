"""Every SEV-SNP case of the vectors, real hardware and synthetic, against the verifier."""

import base64
import json
import re
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from attestation.errors import AttestationError
from attestation.sev_snp import SnpCollateral, VerifiedSnp, verify
from attestation.sev_snp_bulletins import AMD_BULLETINS
from attestation.sev_snp_certificates import KeyKind
from attestation.sev_snp_policy import SnpPolicy, amd_roots
from attestation.sev_snp_report import Product, Tcb

_PINS = ("measurement", "report_data", "host_data", "image_id", "family_id", "chip_id")
_KEYS = ("trusted_id_key_digests", "trusted_author_key_digests")
_REQUIRABLE = ("single_socket", "aes256_xts", "rapl_dis", "ciphertext_hiding", "page_swap_disable")


def _policy(case: dict[str, Any], roots: Any) -> SnpPolicy:
    """A policy with the defaults that the manifests define, and what the case asks for."""
    given = dict(case.get("policy") or {})
    product = Product(case["product"].lower())
    values: dict[str, Any] = {"roots": roots, "bulletins": (), "min_report_version": 2, "require_crl": False}
    for name in ("min_tcb", "min_launch_tcb"):
        if name in given:
            values[name] = _floors(given.pop(name), product)
    for name in ("min_abi", "min_firmware"):
        if name in given:
            values[name] = tuple(map(int, given.pop(name).split(".")))
    if "chip_ids" in given:
        given["chip_id"] = given.pop("chip_ids")
    values["pins"] = {
        name: frozenset(map(bytes.fromhex, _listed(given.pop(name))))
        for name in _PINS
        if given.get(name) is not None
    }
    for name in _KEYS:
        if name in given:
            values[name] = frozenset(map(bytes.fromhex, given.pop(name)))
    for name, kind in (("products", Product), ("signing_keys", KeyKind), ("csp_ids", str)):
        if name in given:
            values[name] = frozenset(
                kind(item.lower() if kind is not str else item) for item in given.pop(name)
            )
    for name in ("vmpl", "require_platform", "forbid_platform"):
        if name in given:
            values[name] = frozenset(given.pop(name))
    values["require_guest_policy"] = frozenset(
        name for name in _REQUIRABLE if given.pop(f"require_{name}", False)
    )
    return SnpPolicy(**{**values, **given})


def _listed(value: Any) -> list[str]:
    return [value] if isinstance(value, str) else value


def _floors(given: dict[str, Any], product: Product) -> dict[Product, Tcb]:
    """Floors of one product, or by product; a part that is not named has none."""
    by_product = given if set(given) <= set(Product) else {product: given}
    none = {"bl": 0, "tee": 0, "snp": 0, "ucode": 0}
    return {Product(name): Tcb(**{**none, **parts}) for name, parts in by_product.items()}


def _cases(folder: Path) -> list[dict[str, Any]]:
    cases: list[dict[str, Any]] = json.loads((folder / "cases.json").read_text())
    assert cases
    return cases


def _pem(path: Path) -> list[bytes]:
    found = re.findall("-----BEGIN CERTIFICATE-----(.+?)-----END CERTIFICATE-----", path.read_text(), re.S)
    return [base64.b64decode(text) for text in found]


def _real_collateral(vectors: Path, case: dict[str, Any]) -> tuple[bytes, SnpCollateral]:
    snp = vectors / "snp"
    files = {"report": (snp / case["report"]).read_bytes(), "ek": (snp / case["ek"]).read_bytes()}
    for change in case["mutations"]:
        data = bytearray(files[change["target"]])
        if change["op"] == "xor":
            data[change["offset"]] ^= change["value"]
        elif change["op"] == "truncate":
            del data[change.get("length", change.get("value")) :]
        else:
            assert change["op"] == "append"
            data += bytes.fromhex(change["value"])
        files[change["target"]] = bytes(data)
    ask, ark = _pem(snp / "trust" / f"{case['product'].lower()}_{case['kind']}_chain.pem")
    return files["report"], SnpCollateral(files["ek"], ask, ark)


def _synthetic_collateral(vectors: Path, case: dict[str, Any]) -> tuple[bytes, SnpCollateral]:
    trust, product = vectors / "snp" / "synth" / "trust", case["product"].lower()
    intermediate = "ask" if case["kind"] == "vcek" else "asvk"
    chain = [(trust / f"{name}_{product}.der").read_bytes() for name in (intermediate, "ark")]
    if case.get("chain_b64") is not None:
        chain = [*map(base64.b64decode, case["chain_b64"]), b"", b""]
    crl = base64.b64decode(case["crl_b64"]) if case.get("crl_b64") else None
    collateral = SnpCollateral(base64.b64decode(case["ek_b64"]), chain[0], chain[1], crl)
    return base64.b64decode(case["report_b64"]), collateral


def _synthetic_roots(vectors: Path) -> dict[Product, frozenset[str]]:
    import hashlib

    trust = vectors / "snp" / "synth" / "trust"
    return {
        product: frozenset({hashlib.sha256((trust / f"ark_{product}.der").read_bytes()).hexdigest()})
        for product in Product
    }


def _verdict(
    report: bytes, collateral: SnpCollateral, policy: SnpPolicy, time: int
) -> VerifiedSnp | AttestationError:
    try:
        return verify(report, collateral, policy, datetime.fromtimestamp(time, UTC))
    except AttestationError as error:
        return error


def _complaint(case: dict[str, Any], found: VerifiedSnp | AttestationError) -> str | None:
    expect = case["expect"]
    if expect.get("either_verdict_conforms"):
        return None
    if expect["verdict"] == "accept":
        return _differs(case, found) if isinstance(found, VerifiedSnp) else f"{case['id']}: refused, {found}"
    if isinstance(found, VerifiedSnp):
        return f"{case['id']}: accepted, expected {expect['code']}"
    codes = expect["code"].split("|")
    return None if found.code in codes else f"{case['id']}: expected {expect['code']}, found {found}"


def _differs(case: dict[str, Any], found: VerifiedSnp) -> str | None:
    """What the manifest says of evidence that is accepted, and we find otherwise."""
    says = {
        "product": found.product,
        "signing_key": found.signed_by,
        "hwid_masked": found.chip_id is None,
        "report_version": found.report.version,
        "tcb": asdict(found.tcb),
    }
    for name, wanted in case["expect"].items():
        wanted = wanted.lower() if isinstance(wanted, str) else wanted
        wanted = {"fmc": 0, **wanted} if isinstance(wanted, dict) else wanted
        if name in says and says[name] != wanted:
            return f"{case['id']}: {name} is {wanted}, found {says[name]}"
    return None


@pytest.mark.parametrize("kind", ["real", "synth"])
def test_every_case_has_its_verdict_and_its_code(vectors: Path, kind: str) -> None:
    roots = amd_roots() if kind == "real" else _synthetic_roots(vectors)
    collect = _real_collateral if kind == "real" else _synthetic_collateral
    complaints = []
    for case in _cases(vectors / "snp" / kind):
        report, collateral = collect(vectors, case)
        try:
            policy = _policy(case, roots)
        except (TypeError, ValueError) as error:
            complaints.append(f"{case['id']}: this policy is not understood: {error}")
            continue
        complaints.append(_complaint(case, _verdict(report, collateral, policy, case["time"])))
    assert [complaint for complaint in complaints if complaint] == []


def test_a_milan_is_refused_until_a_policy_waives_it_by_name(vectors: Path) -> None:
    """Its keys can be had by software alone (arXiv 2605.12990), so that no firmware level helps."""
    waivers = tuple(bulletin for bulletin in AMD_BULLETINS if bulletin.refused)
    assert waivers
    for case in _cases(vectors / "snp" / "real"):
        if case["expect"]["verdict"] == "reject":
            continue
        policy = _policy(case, amd_roots())
        report, collateral = _real_collateral(vectors, case)
        assert isinstance(_verdict(report, collateral, policy, case["time"]), VerifiedSnp)  # control
        found = _verdict(report, collateral, replace(policy, bulletins=waivers), case["time"])
        if case["product"].lower() == Product.MILAN:
            assert isinstance(found, AttestationError), case["id"]
            assert found.code == "product_not_allowed"
        else:
            assert isinstance(found, VerifiedSnp), case["id"]


def test_amds_roots_do_not_vouch_for_the_synthetic_keys(vectors: Path) -> None:
    for case in _cases(vectors / "snp" / "synth"):
        report, collateral = _synthetic_collateral(vectors, case)
        found = _verdict(report, collateral, _policy(case, amd_roots()), case["time"])
        assert isinstance(found, AttestationError), case["id"]


def test_the_pinned_roots_are_amds_own(vectors: Path) -> None:
    from attestation.certificate import Certificate, verify_pss_sha384

    for product, pins in amd_roots().items():
        for kind in ("vcek", "vlek"):
            intermediate, root = map(
                Certificate.parse, _pem(vectors / "snp" / "trust" / f"{product}_{kind}_chain.pem")
            )
            assert {root.sha256.hex()} == pins
            assert root.common_name == f"ARK-{product.capitalize()}"
            verify_pss_sha384(root.public_key, root.algorithm, root.signature, root.signed)
            verify_pss_sha384(
                root.public_key, intermediate.algorithm, intermediate.signature, intermediate.signed
            )
