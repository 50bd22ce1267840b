"""Collateral of the wrong time, of the wrong signer or of the wrong form, one piece at a time, each refused by name."""

from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding
from tdx_world import AT, END, START, Authority, World, issue, raw_signature, revocations

from attestation.cpu_memory import CpuMemory
from attestation.tdx.collateral import TdxCollateral
from attestation.tdx.policy import TdxPolicy
from attestation.tdx.verify import appraise

DAY = timedelta(days=1)


@pytest.fixture(scope="module")
def world() -> World:
    return World()


def dated_list(issuer: Authority, begin: datetime, end: datetime | None) -> bytes:
    builder = (
        x509.CertificateRevocationListBuilder().issuer_name(issuer.certificate.subject).last_update(begin)
    )
    builder = builder.next_update(end or begin)
    return builder.sign(issuer.key, hashes.SHA256()).public_bytes(Encoding.DER)


def pem(*authorities: Authority) -> bytes:
    return "".join(authority.pem for authority in authorities).encode()


def resigned(good: TdxCollateral, document: str, data: bytes, world: World) -> TdxCollateral:
    return replace(good, **{document: data, f"{document}_signature": raw_signature(world.signer.key, data)})


Change = Callable[[World, TdxCollateral], TdxCollateral]

CHANGES: dict[str, tuple[Change, set[str]]] = {
    "root list run out": (
        lambda w, c: replace(c, root_ca_crl=dated_list(w.root, AT - 9 * DAY, AT - DAY)),
        {"crl_expired"},
    ),
    "root list of the future": (
        lambda w, c: replace(c, root_ca_crl=dated_list(w.root, AT + DAY, AT + 9 * DAY)),
        {"crl_not_yet_valid"},
    ),
    "PCK list run out": (
        lambda w, c: replace(c, pck_crl=dated_list(w.ca, AT - 9 * DAY, AT - DAY)),
        {"crl_expired"},
    ),
    "root list by another key of that name": (
        lambda w, c: replace(c, root_ca_crl=revocations(World().root)),
        {"crl_signature"},
    ),
    "root list by the PCK's issuer": (
        lambda w, c: replace(c, root_ca_crl=revocations(w.ca)),
        {"crl_issuer_mismatch"},
    ),
    "no root list": (lambda w, c: replace(c, root_ca_crl=b""), {"crl_malformed"}),
    "a root list and more": (lambda w, c: replace(c, root_ca_crl=c.root_ca_crl + b"\0"), {"crl_malformed"}),
    "signer without its root": (
        lambda w, c: replace(c, tcb_info_issuer_chain=pem(w.signer)),
        {"chain_untrusted"},
    ),
    "chain the wrong way round": (
        lambda w, c: replace(c, tcb_info_issuer_chain=pem(w.root, w.signer)),
        {"chain_wrong_role", "chain_untrusted"},
    ),
    "signer twice": (
        lambda w, c: replace(c, qe_identity_issuer_chain=pem(w.signer, w.signer, w.root)),
        {"chain_untrusted"},
    ),
    "list's issuer is the signer of levels": (
        lambda w, c: replace(c, pck_crl_issuer_chain=pem(w.signer, w.root)),
        {"chain_wrong_role"},
    ),
    "list's issuer of another root": (
        lambda w, c: replace(c, pck_crl_issuer_chain=pem((other := World()).ca, other.root)),
        {"chain_untrusted"},
    ),
    "a signer that issues too": (
        lambda w, c: replace(
            c, tcb_info_issuer_chain=pem(issue("Intel SGX TCB Signing", w.root, ca=True), w.root)
        ),
        {"chain_wrong_role"},
    ),
    "text between certificates": (
        lambda w, c: replace(c, tcb_info_issuer_chain=pem(w.signer) + b"x" + pem(w.root)),
        {"chain_malformed"},
    ),
    "no chain": (lambda w, c: replace(c, qe_identity_issuer_chain=b""), {"chain_malformed"}),
    "levels signed with a short signature": (
        lambda w, c: replace(c, tcb_info_signature=c.tcb_info_signature[:63]),
        {"tcb_info_signature"},
    ),
    "signatures exchanged": (
        lambda w, c: replace(
            c, tcb_info_signature=c.qe_identity_signature, qe_identity_signature=c.tcb_info_signature
        ),
        {"tcb_info_signature"},
    ),
    "documents exchanged": (
        lambda w, c: replace(
            c,
            tcb_info=c.qe_identity,
            tcb_info_signature=c.qe_identity_signature,
            qe_identity=c.tcb_info,
            qe_identity_signature=c.tcb_info_signature,
        ),
        {"tcb_info_invalid"},
    ),
    "levels inside the answer of the service": (
        lambda w, c: resigned(c, "tcb_info", b'{"tcbInfo":' + c.tcb_info + b"}", w),
        {"tcb_info_invalid", "tcb_info_malformed"},
    ),
    "levels after a byte order mark": (
        lambda w, c: resigned(c, "tcb_info", b"\xef\xbb\xbf" + c.tcb_info, w),
        {"tcb_info_malformed"},
    ),
    "a list instead of levels": (lambda w, c: resigned(c, "tcb_info", b"[]", w), {"tcb_info_malformed"}),
    "an endless number in the enclave's identity": (
        lambda w, c: resigned(
            c, "qe_identity", c.qe_identity.replace(b'"isvprodid": 2', b'"isvprodid": 1e999'), w
        ),
        {"qe_identity_malformed"},
    ),
}


@pytest.mark.parametrize("name", CHANGES)
def test_one_piece_changed(world: World, name: str) -> None:
    change, codes = CHANGES[name]
    policy = TdxPolicy(simulated_root=world.root_sha256)
    quote, good = world.quote(), world.collateral()
    bad = change(world, good)
    assert bad != good
    found = appraise(quote, bad, policy, AT)
    assert found.error is not None
    assert found.error.code in codes
    # Nothing that was learnt of good collateral helps the bad.
    memory = CpuMemory()
    verified = appraise(quote, good, policy, AT, memory.tdx).require()  # control
    memory.learn_tdx(good, verified.quote.pck_chain, policy.trusted_roots)
    assert memory.tdx.entries
    again = appraise(quote, bad, policy, AT, memory.tdx)
    assert again.rows == found.rows


@pytest.mark.parametrize("moment", [START - DAY, END + DAY])
def test_what_is_remembered_runs_out_all_the_same(world: World, moment: datetime) -> None:
    policy = TdxPolicy(simulated_root=world.root_sha256)
    quote, good, memory = world.quote(), world.collateral(), CpuMemory()
    memory.learn_tdx(good, appraise(quote, good, policy, AT).require().quote.pck_chain, policy.trusted_roots)
    assert appraise(quote, good, policy, AT, memory.tdx).error is None
    late = appraise(quote, good, policy, moment, memory.tdx)
    assert late.error is not None
    assert late.error.code in ("cert_expired", "cert_not_yet_valid")
    # Nor does it speak for a root that a policy no longer trusts.
    elsewhere = appraise(quote, good, TdxPolicy(), AT, memory.tdx)
    assert elsewhere.error is not None
    assert elsewhere.error.code == "chain_untrusted"
