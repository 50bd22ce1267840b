"""What a machine reads off its own evidence is what a verifier finds in it."""

from contextlib import suppress

import pytest
import tdx_world
from cryptography.hazmat.primitives.asymmetric import ec
from software_tpm import SoftwareTpm

from attestation.bundle import CpuSection
from attestation.errors import EvidenceMalformed, NotAvailable
from attestation.simulated.amd import ReportSettings, sign_report
from attestation.stated_registers import stated_registers
from attestation.tdx.quote import parse_quote


def test_a_processors_launch_digest() -> None:
    settings = ReportSettings(bytes(range(48)), bytes(64), bytes(32))
    report = sign_report(ec.generate_private_key(ec.SECP384R1()), bytes(64), settings)
    assert stated_registers(CpuSection("sev-snp", report, {})) == {"launchDigest": bytes(range(48)).hex()}


def test_a_trust_domains_registers() -> None:
    quote = tdx_world.World().quote()
    found = stated_registers(CpuSection("tdx", quote, {}))
    assert set(found) == {"mrtd", "rtmr0", "rtmr1", "rtmr2", "rtmr3"}
    assert found["mrtd"] == parse_quote(quote).body.mrtd.hex()


def test_a_tpms_quoted_registers() -> None:
    tpm = SoftwareTpm().boot()
    found = stated_registers(CpuSection("tpm", tpm.evidence(bytes(32)).encode(), {}))
    assert found["pcr4"] == tpm.pcr("sha256", 4).hex()


@pytest.mark.parametrize("tee", ["sev-snp", "tdx", "tpm", "azure-snp", "azure-tdx"])
@pytest.mark.parametrize("evidence", [b"", b"{}", b"\0" * 1184, b"\xff" * 5000])
def test_what_cannot_be_read(tee: str, evidence: bytes) -> None:
    section = CpuSection(tee, evidence, {})
    with suppress(EvidenceMalformed):
        assert stated_registers(section)


def test_an_unknown_kind() -> None:
    with pytest.raises(NotAvailable):
        stated_registers(CpuSection("sgx", b"", {}))
