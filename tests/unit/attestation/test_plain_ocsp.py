"""The quick way through a plain OCSP response gives what the full reader gives, or nothing."""

from datetime import UTC, datetime

import pytest

from attestation.errors import AttestationError
from attestation.nvidia.ocsp_response import _read, parse_response
from attestation.nvidia.once import Once
from attestation.nvidia.plain_ocsp import read_plain_response
from attestation.simulated.nvidia import SimulatedDevicePki
from attestation.simulated.nvidia_ocsp import Answer, answer

AT = datetime(2026, 11, 21, 12, tzinfo=UTC)
PKI = SimulatedDevicePki.create()
DEVICE = PKI.make_identity().certificate
PLAIN = {
    "good": answer(DEVICE, PKI.provisioner, AT, Answer()),
    "by the issuer": answer(DEVICE, PKI.provisioner, AT, Answer(delegated=False)),
    "without an end": answer(DEVICE, PKI.provisioner, AT, Answer(lifetime=None)),
}


@pytest.mark.parametrize("data", PLAIN.values(), ids=PLAIN)
def test_a_plain_response_is_taken_and_no_change_of_a_byte_makes_the_two_differ(data: bytes) -> None:
    assert _same(data)
    taken = 0
    for at in range(len(data)):
        for change in (0x01, 0x80):
            taken += _same(data[:at] + bytes([data[at] ^ change]) + data[at + 1 :])
        assert not _same(data[:at])
        assert not _same(data + data[: at + 1])
    assert taken > 60


def _same(data: bytes) -> bool:
    """Whether the quick way takes it; then the full reader must find just the same."""
    if read_plain_response(data) is None:
        return False
    try:
        found = parse_response(data)
    except AttestationError:
        with pytest.raises(AttestationError):
            _read(data, Once())
    else:
        assert found == _read(data, Once())
    return True
