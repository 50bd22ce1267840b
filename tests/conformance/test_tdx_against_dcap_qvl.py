"""The TDX verifier beside another one (dcap-qvl), on every case: each difference has a rule that decides it.

Nothing here says what is right; the vectors do. The test is that the two never part without a reason that is
written down, in either direction.
"""

from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from random import Random
from typing import Any

import pytest
from tdx_cases import TdxCase, readable
from tdx_world import AT, Td, World, platform_level, qe_identity, svn_level, tcb_info

from attestation.tdx.collateral import COLLATERAL_NAMES
from attestation.tdx.policy import TdxPolicy
from attestation.tdx.quote import Quote, parse_quote
from attestation.tdx.tcb_status import TcbStatus
from attestation.tdx.verify import VerifiedTdx, appraise

dcap_qvl = pytest.importorskip("dcap_qvl", reason="the test extra dcap-qvl is not installed")

BINARY = ("root_ca_crl", "pck_crl", "tcb_info_signature", "qe_identity_signature")
OF_PARTS = ("UpToDate", "OutOfDate", "Revoked")
OF_PLATFORMS = tuple(state.value for state in TcbStatus if not state.startswith("TD"))

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
    pieces: dict[str, Any] = {
        name: bytes.fromhex(value) if name in BINARY else value for name, value in case.members.items()
    }
    return _asked(case.quote, pieces, case.at, root)


def _asked(
    quote: bytes, pieces: Mapping[str, Any], moment: datetime, root: bytes | None
) -> tuple[str, list[str]] | None:
    collateral, at = dcap_qvl.QuoteCollateralV3(**pieces), int(moment.timestamp())
    try:
        if root is None:
            report = dcap_qvl.verify(quote, collateral, at)
        else:
            report = dcap_qvl.verify_with_root_ca(quote, collateral, root, at)
    except ValueError:
        return None
    return report.status, report.advisory_ids


def _agree(ours: VerifiedTdx, theirs: tuple[str, list[str]]) -> bool:
    """State and advisories; of a TD that has changed modules, ours are those of the launch and of the present."""
    body, advisories = ours.quote.body, set(ours.tcb.advisories)
    changed = body.tee_tcb_svn2 not in (None, body.tee_tcb_svn)
    told = advisories >= set(theirs[1]) if changed else advisories == set(theirs[1])
    return told and ours.tcb.status == theirs[0]


def _svns(random: Random, *components: int) -> bytes:
    return bytes((random.randint(1, components[0]), *components[1:])) + bytes(16 - len(components))


def _random_levels(random: Random) -> tuple[dict[str, Any], dict[str, Any]]:
    """TCB Info and QE Identity with levels in no order, of states in no order."""

    def level(isvsvn: int, advisory: str) -> dict[str, Any]:
        names = [f"{advisory}-{random.randint(1, 3)}"] * random.randint(0, 1)
        return svn_level(random.choice(OF_PARTS), isvsvn, "2025-01-01", *names)

    levels, enclave = tcb_info(), qe_identity()
    levels["tcbLevels"] = []
    for number in range(random.randint(1, 4)):
        state = random.choice(OF_PLATFORMS)
        found = platform_level(state, random.randint(3, 6), random.randint(2, 5), "2025-01-01", f"P-{number}")
        found["tcb"]["pcesvn"] = random.randint(12, 14)
        found["tcb"]["tdxtcbcomponents"][0]["svn"] = random.choice((0, 0, 5))
        levels["tcbLevels"].append(found)
    module = levels["tdxModuleIdentities"][0]
    levels["tdxModuleIdentities"] = [
        {**module, "id": name, "tcbLevels": [level(n, "M") for n in sorted(random.sample(range(7), 2))[::-1]]}
        for name in random.sample(["TDX_01", "tdx_02", "TDX_03"], 2)
    ]
    enclave["tcbLevels"] = [level(n, "E") for n in sorted(random.sample(range(5, 10), 2))[::-1]]
    return levels, enclave


def test_the_state_of_platforms_at_random() -> None:
    """Under one root of the test's own, with every combination of states that documents may come to."""
    world, random, compared = World(), Random(7), 0
    policy = TdxPolicy(roots=frozenset({world.root_sha256}), accepted_tcb_statuses=frozenset(TcbStatus))
    for number in range(250):
        svn = _svns(random, 6, random.choice((0, 1, 1, 2, 3)), random.randint(2, 5))
        svn2 = svn if number % 2 else _svns(random, 6, random.choice((0, 1, 2, 3)), random.randint(2, 5))
        quote = world.quote(Td(kind=random.choice((2, 3)), svn=svn, svn2=svn2))
        collateral = world.collateral(*_random_levels(random))
        members = {
            name: data if name in BINARY else data.decode()
            for name, data in ((name, getattr(collateral, name)) for name in COLLATERAL_NAMES)
        }
        theirs = _asked(quote, members, AT, world.root.der)
        ours = appraise(quote, collateral, policy, AT)
        if theirs is None:
            codes = {"tcb_not_supported", "tdx_module_unknown", "tcb_status_not_accepted"}
            assert ours.error is not None, number
            assert ours.error.code in codes
            continue
        if parse_quote(quote).body.tee_tcb_svn2 not in (None, svn) and not theirs[0].startswith("TDRelaunch"):
            continue  # a present state that is worse than the launch's counts with us, and not with it
        assert ours.value is not None, (number, ours.error, theirs)
        assert _agree(ours.value, theirs), (number, ours.value.tcb, theirs)
        compared += 1
    assert compared > 30


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
                if not _agree(ours.value, theirs):
                    complaints.append(f"{case.id}: we find {ours.value.tcb}, it finds {theirs}")
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
