"""The quick way through a PCK certificate's extension gives what the full reader gives, or nothing."""

import pytest
from tdx_world import sgx_extension

from attestation import der
from attestation.certificate import Certificate, Extension
from attestation.errors import AttestationError
from attestation.simulated import der_writer
from attestation.tdx.intel_root import INTEL_ROOT
from attestation.tdx.pck import _PLAIN_EXTENSION, OID_SGX_EXTENSIONS, PckPlatform, _read, read_platform


def part(arcs: str, value: bytes) -> bytes:
    return der_writer.sequence(der_writer.oid(f"{OID_SGX_EXTENSIONS}.{arcs}"), value)


def with_configuration(*flags: bool) -> bytes:
    outer = der.Reader(sgx_extension().value)
    five = outer.content(der.SEQUENCE)
    parts = [part(f"7.{n}", b"\x01\x01" + (b"\xff" if flag else b"\0")) for n, flag in enumerate(flags, 1)]
    instance = part("6", der_writer.octet_string(bytes(range(16))))
    return der_writer.sequence(five, instance, part("7", der_writer.sequence(*parts)))


PLAIN = {
    "processor": sgx_extension(bytes(range(16)), 11).value,
    "platform": with_configuration(True, False, True),
}
OTHER = {
    "high component": sgx_extension(bytes([200] * 16)).value,
    "high PCESVN": sgx_extension(pcesvn=300).value,
    "two flags": with_configuration(True, True),
}


@pytest.mark.parametrize("value", PLAIN.values(), ids=PLAIN)
def test_no_change_of_a_byte_makes_the_two_differ(value: bytes) -> None:
    assert _PLAIN_EXTENSION.fullmatch(value)
    assert quick(value) == full(value)
    for at in range(len(value)):
        for change in (0x01, 0x02, 0x80, 0xFF):
            changed = value[:at] + bytes([value[at] ^ change]) + value[at + 1 :]
            assert quick(changed) == full(changed)
        assert quick(value[:at]) == full(value[:at])


@pytest.mark.parametrize("value", OTHER.values(), ids=OTHER)
def test_other_forms_are_read_in_full(value: bytes) -> None:
    assert not _PLAIN_EXTENSION.fullmatch(value)
    assert isinstance(quick(value), PckPlatform)


def test_what_the_platform_is() -> None:
    found = quick(PLAIN["platform"])
    assert isinstance(found, PckPlatform)
    assert found.configuration == {"dynamic_platform", "smt"}
    assert found.components == bytes([5] * 16)


def quick(value: bytes) -> PckPlatform | str:
    extension = Extension(OID_SGX_EXTENSIONS, False, value)
    certificate: Certificate = INTEL_ROOT._replace(extensions=(extension,))
    try:
        return read_platform(certificate)
    except AttestationError as error:
        return error.code


def full(value: bytes) -> PckPlatform | str:
    try:
        return _read(value)
    except der.DerError:
        return "pck_extension_malformed"
    except AttestationError as error:
        return error.code
