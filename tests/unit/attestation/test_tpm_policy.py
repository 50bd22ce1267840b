"""Policy tables of TPMs: strict where silent, closed to what is unknown."""

import tomllib

import pytest

from attestation.errors import PolicyMalformed
from attestation.policy import AttestationPolicy
from attestation.tpm.policy import DEFAULT_REQUIRED, AzurePolicy, TpmPolicy


def parsed(text: str) -> AttestationPolicy:
    return AttestationPolicy.from_table(tomllib.loads(text))


def test_an_empty_policy_trusts_no_key_and_asks_for_everything() -> None:
    policy = parsed("")
    assert policy.tpm == TpmPolicy()
    assert policy.azure == AzurePolicy()
    assert policy.tees == {"sev-snp"}
    tpm = policy.tpm
    assert (tpm.pinned_spki, tpm.ca) == (frozenset(), frozenset())
    assert tpm.require_restricted_ak
    assert tpm.replay_eventlog
    assert tpm.secure_boot
    assert tpm.banks == {"sha256", "sha384"}
    assert tpm.required_pcrs == {"sha256": DEFAULT_REQUIRED}
    assert not policy.gcp.names_instances
    assert policy.gcp.require_production


def test_values_are_read() -> None:
    policy = parsed(
        """
        [cpu]
        accept = ["tpm", "azure-snp", "azure-tdx"]
        [cpu.tpm]
        banks = ["sha384"]
        required_pcrs = {{ sha384 = [0, 4, 11] }}
        max_reset_age_s = 3600
        [cpu.tpm.ak]
        pinned_spki = ["{d}"]
        ca = ["{d}"]
        pinned_names = ["000b{d}"]
        require_crl = true
        [cpu.tpm.pcr]
        4 = ["{d}", "{e}"]
        [cpu.tpm.uki]
        sections = {{ linux = ["{d}"], initrd = ["{d}"] }}
        phases = ["enter-initrd:leave-initrd"]
        [cpu.azure]
        allow_console = false
        user_data = ["{f}"]
        [cpu.gcp]
        projects = ["a", "b"]
        zones = ["z"]
        """.format(d="0a" * 32, e="0b" * 48, f="0c" * 64)
    )
    tpm, digest = policy.tpm, b"\x0a" * 32
    assert tpm.required_pcrs == {"sha384": {0, 4, 11}}
    assert tpm.max_reset_age_s == 3600
    assert (tpm.pinned_spki, tpm.ca, tpm.require_crl) == ({digest}, {digest}, True)
    assert tpm.pinned_names == {b"\0\x0b" + digest}
    assert tpm.pins == {4: {digest, b"\x0b" * 48}}
    assert tpm.uki is not None
    assert tpm.uki.sections == {"sha256": {"linux": digest, "initrd": digest}}
    assert tpm.uki.phases == ("enter-initrd:leave-initrd",)
    assert not policy.azure.allow_console
    assert policy.azure.user_data == {b"\x0c" * 64}
    assert policy.gcp.projects == {"a", "b"}
    assert policy.gcp.names_instances


def test_a_policy_of_one_bank_requires_pcrs_of_it() -> None:
    assert parsed('[cpu.tpm]\nbanks = ["sha384"]').tpm.required_pcrs == {"sha384": DEFAULT_REQUIRED}


@pytest.mark.parametrize(
    "text",
    [
        '[cpu.tpm]\nbanks = ["sha1"]',
        "[cpu.tpm]\nbanks = []",
        "[cpu.tpm]\nrequired_pcrs = {}",
        "[cpu.tpm]\nrequired_pcrs = { sha256 = [24] }",
        "[cpu.tpm]\nrequired_pcrs = { sha1 = [0] }",
        "[cpu.tpm]\nreplay_eventlog = false",
        "[cpu.tpm]\nsecure_bot = true",
        '[cpu.tpm.pcr]\n24 = ["%s"]' % ("00" * 32),
        '[cpu.tpm.pcr]\n4 = ["%s"]' % ("00" * 20),
        '[cpu.tpm.pcr]\n4 = ["%s"]' % ("0A" * 32),
        "[cpu.tpm.pcr]\n4 = []",
        "[cpu.tpm.uki]\n",
        "[cpu.tpm.uki.sections]\nosrel = ['%s']" % ("00" * 32),
        "[cpu.tpm.uki]\npcr11 = ['%s']\nphases = ['soon']" % ("00" * 32),
        "[cpu.tpm.uki]\npcr11 = ['{}']\nsections = {{ linux = ['{}'] }}".format("00" * 32, "00" * 32),
        "[cpu.tpm.uki.sections]\nlinux = ['{}', '{}']".format("00" * 32, "01" * 32),
        "[cpu.tpm.uki.sections]\nlinux = ['{}', '{}']\ninitrd = ['{}']".format(
            "00" * 32, "01" * 48, "00" * 32
        ),
        "[cpu.tpm.ak]\npinned_spki = ['00']",
        "[cpu.tpm.ak]\nhcl = true",
        "[cpu.azure]\nuser_data = ['00']",
        "[cpu.gcp]\nprojects = []",
        "[cpu.gcp]\nproject = 'a'",
    ],
)
def test_odd_policies_are_refused(text: str) -> None:
    with pytest.raises(PolicyMalformed, match="policy_invalid"):
        parsed(text)
