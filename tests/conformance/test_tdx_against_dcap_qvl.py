"""The TDX verifier beside another one (dcap-qvl), on every case: each difference has a rule that decides it.

Nothing here says what is right; the vectors do. The test is that the two never part without a reason that is
written down, in either direction.
"""

from pathlib import Path
from typing import Any

import pytest
from tdx_cases import TdxCase, readable

from attestation.tdx.quote import Quote
from attestation.tdx.verify import appraise

dcap_qvl = pytest.importorskip("dcap_qvl", reason="the test extra dcap-qvl is not installed")

STATUS = "its verdict is the state of the platform, and the caller has to judge it; ours is the policy's"
PINS = "it is given no policy: pins, floors and lists of advisories are ours to hold"
SIGNER_ROLE = "TCB Info and QE Identity are signed by the role TCB Signing, not by any key under the root"
PCEID = "TCB Info is of one FMSPC and one PCEID, and both must be the platform's"
OUTER_TYPE = "the certification data of a version 4 or 5 quote has type 6 (Intel QVL, Quote::validate)"
CRL_START = "a revocation list is in force from its thisUpdate on, not before"
ANY_LENGTH = "QE authentication data has a length of its own, which may be any (Intel QVL takes any)"
OWN_TD_RULES = (
    "it refuses debug TDs and TDs without SEPT_VE_DISABLE whatever the caller permits; we ask the policy"
)
XFAM = "a TD without x87 and SSE state, or with unknown state, is none that Intel's module makes"

RESERVED = (
    "QE report data is SHA-256 over key and authentication data, then 32 zero bytes: all 64 are compared"
)

WE_REFUSE: dict[str, str] = {
    "quote_cert_data_type": OUTER_TYPE,
    "tcb_info_mismatch": PCEID,
    "chain_wrong_role": SIGNER_ROLE,
    "crl_not_yet_valid": CRL_START,
    "qe_report_data_mismatch": RESERVED,
    "td_xfam": XFAM,
    "tcb_status_not_accepted": STATUS,
    "advisory_not_allowed": PINS,
    "tcb_eval_number_too_low": PINS,
    "tcb_below_minimum": PINS,
    "td_tcb_svn": PINS,
    "td_mrtd": PINS,
    "td_rtmr": PINS,
    "td_mrseam": PINS,
    "td_mr_config_id": PINS,
    "td_mr_owner": PINS,
    "td_mr_owner_config": PINS,
    "td_report_data": PINS,
    "td_attributes": PINS,
    "td_service_td": PINS,
    "td_partition": PINS,
    "fmspc_not_allowed": PINS,
    "ppid_not_allowed": PINS,
    "platform_configuration": PINS,
}
"""What may be our reason, by its code, to refuse what the other accepts, and the rule behind it."""


def _why_we_accept(quote: Quote) -> str | None:
    """The rule by which we may accept what the other refuses."""
    if len(quote.qe_authentication_data) != 32:
        return ANY_LENGTH
    if quote.body.td_attributes & 1 or not quote.body.td_attributes >> 28 & 1:
        return OWN_TD_RULES
    return None


def _other(case: TdxCase, root: bytes | None) -> tuple[str, list[str]] | None:
    """The state and the advisories that dcap-qvl finds; None where it refuses."""
    assert case.members is not None
    binary = ("root_ca_crl", "pck_crl", "tcb_info_signature", "qe_identity_signature")
    pieces: dict[str, Any] = {
        name: bytes.fromhex(value) if name in binary else value for name, value in case.members.items()
    }
    collateral, at = dcap_qvl.QuoteCollateralV3(**pieces), int(case.at.timestamp())
    try:
        if root is None:
            report = dcap_qvl.verify(case.quote, collateral, at)
        else:
            report = dcap_qvl.verify_with_root_ca(case.quote, collateral, root, at)
    except ValueError:
        return None
    return report.status, report.advisory_ids


def test_every_difference_has_its_rule(vectors: Path) -> None:
    synthetic_root = (vectors / "tdx" / "synth" / "root_ca.der").read_bytes()
    complaints: list[str] = []
    used: set[str | None] = set()
    for kind, root in (("real", None), ("synth", synthetic_root)):
        for case in readable(vectors, kind):
            if case.members is None:
                continue
            ours, theirs = appraise(case.quote, case.collateral, case.policy, case.at), _other(case, root)
            if ours.value is not None and theirs is not None:
                found = (ours.value.tcb.status, sorted(ours.value.tcb.advisories))
                if found != (theirs[0], sorted(theirs[1])):
                    complaints.append(f"{case.id}: we find {found}, it finds {theirs}")
            elif ours.value is not None:
                rule = _why_we_accept(ours.value.quote)
                used.add(rule)
                if rule is None:
                    complaints.append(f"{case.id}: we accept, it refuses")
            elif ours.error is not None and theirs is not None:
                used.add(ours.error.code)
                if ours.error.code not in WE_REFUSE:
                    complaints.append(f"{case.id}: it accepts, we refuse: {ours.error}")
                if ours.error.code == "tcb_status_not_accepted" and ours.error.found != theirs[0]:
                    complaints.append(f"{case.id}: we find {ours.error.found}, it finds {theirs[0]}")
    assert complaints == []
    assert used & WE_REFUSE.keys(), "the two never part: is the other one asked at all?"
