"""What a device's refusal is called, and the checks that all devices have in common."""

from ..errors import PlatformFault


def require_length(report_data: bytes, expected: int) -> None:
    """Raises PlatformFault (``platform_request``) unless this is what the device signs."""
    if len(report_data) != expected:
        raise PlatformFault(code="platform_request", expected=f"{expected} bytes", found=len(report_data))


def unreachable(device: str, detail: str) -> PlatformFault:
    """The device is not there, or does not answer as its interface says."""
    return PlatformFault(code="platform_unreachable", detail=f"{device}: {detail}", retryable=True)


def refused(device: str, detail: str) -> PlatformFault:
    """The device answered, and gave no evidence."""
    return PlatformFault(code="platform_refused", detail=f"{device}: {detail}")
