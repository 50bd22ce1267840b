"""What Intel signs as JSON (TCB Info, QE Identity): checked over the exact bytes, then read strictly.

Members that are not known are left alone, because Intel adds some from time to time; a member that occurs
twice never is.
"""

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any, Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

from ..certificate import PublicKey
from ..errors import AttestationError, CollateralInvalid, EvidenceMalformed, TcbRejected
from ..strict_json import load_object
from .tcb_status import TcbStatus

MAX_DOCUMENT: Final = 512 * 1024
"""Bytes of a signed document at most; the longest TCB Info has some 20 KiB."""

_MAX_LEVELS: Final = 256
_MAX_ADVISORIES: Final = 512
_P256_SHA256: Final = ec.ECDSA(hashes.SHA256())


def verify_signed(
    key: PublicKey | None, signature: bytes, signed: bytes, refusal: Callable[[], AttestationError]
) -> None:
    """Check that ``signature`` (r ‖ s, 64 bytes, big-endian) over ``signed`` is by this P-256 key.

    Raises what ``refusal`` gives where it is not.
    """
    if not isinstance(key, ec.EllipticCurvePublicKey) or key.curve.name != "secp256r1":
        raise refusal()
    if len(signature) != 64:
        raise refusal()
    r, s = int.from_bytes(signature[:32], "big"), int.from_bytes(signature[32:], "big")
    try:
        key.verify(encode_dss_signature(r, s), signed, _P256_SHA256)
    except InvalidSignature:
        raise refusal() from None


class Document:
    """A JSON object of a signed document, and ``name``, the start of its error codes.

    Every method raises CollateralInvalid (``<name>_malformed``) for what is missing or of another kind.
    """

    __slots__ = ("_members", "name")

    def __init__(self, members: Mapping[str, Any], name: str) -> None:
        self._members = members
        self.name = name

    @classmethod
    def open(cls, raw: bytes, signature: bytes, key: PublicKey | None, name: str) -> "Document":
        """Check the signature over ``raw``, then read it. Raises CollateralInvalid (``<name>_signature``)."""
        if len(raw) > MAX_DOCUMENT:
            raise malformed(name, f"more than {MAX_DOCUMENT} bytes")
        verify_signed(
            key,
            signature,
            raw,
            lambda: CollateralInvalid(code=f"{name}_signature", detail="not signed by the key of its chain"),
        )
        try:
            return cls(load_object(raw, limit=MAX_DOCUMENT, code=f"{name}_malformed"), name)
        except EvidenceMalformed as error:
            raise malformed(name, error.detail) from None

    def __contains__(self, key: str) -> bool:
        return key in self._members

    def require(self, key: str, expected: object) -> None:
        """A member must be just this. Raises CollateralInvalid (``<name>_invalid``)."""
        found = self._members.get(key)
        if type(found) is not type(expected) or found != expected:
            raise CollateralInvalid(
                code=f"{self.name}_invalid", expected=expected, found=str(found)[:60], detail=key
            )

    def number(self, key: str, highest: int) -> int:
        """A whole number from 0 to ``highest``."""
        value = self._members.get(key)
        if type(value) is not int or not 0 <= value <= highest:
            raise malformed(self.name, f"{key} is not a number up to {highest}")
        return value

    def octets(self, key: str, length: int) -> bytes:
        """Bytes in hexadecimal, of either case."""
        value = self._members.get(key)
        if isinstance(value, str) and len(value) == 2 * length and value.isascii() and value.isalnum():
            try:
                return bytes.fromhex(value)
            except ValueError:
                pass
        raise malformed(self.name, f"{key} is not {length} bytes in hexadecimal")

    def text(self, key: str) -> str:
        """A text."""
        value = self._members.get(key)
        if not isinstance(value, str):
            raise malformed(self.name, f"{key} is not a text")
        return value

    def time(self, key: str) -> datetime:
        """A time in UTC seconds, as in 2025-12-30T00:00:00Z."""
        value = self._members.get(key)
        # With these six in their places, only digits can stand in the others.
        if isinstance(value, str) and len(value) == 20 and value[4::3] == "--T::Z" and value.isascii():
            try:
                return datetime.fromisoformat(value)
            except ValueError:
                pass
        raise malformed(self.name, f"{key} is not a time in UTC seconds")

    def inner(self, key: str) -> "Document":
        """An object."""
        value = self._members.get(key)
        if not isinstance(value, dict):
            raise malformed(self.name, f"{key} is not an object")
        return Document(value, self.name)

    def list(self, key: str, least: int = 1) -> list["Document"]:
        """A list of ``least`` objects or more."""
        values = self._members.get(key)
        if not isinstance(values, list) or not least <= len(values) <= _MAX_LEVELS:
            raise malformed(self.name, f"{key} is not a list of {least} to {_MAX_LEVELS}")
        if not set(map(type, values)) <= {dict}:
            raise malformed(self.name, f"{key} is not a list of objects")
        return [Document(value, self.name) for value in values]

    def components(self, key: str) -> bytes:
        """Sixteen security version numbers of a byte each."""
        values = self._members.get(key)
        if isinstance(values, list) and len(values) == 16:
            try:
                numbers = [value["svn"] for value in values]
                if set(map(type, numbers)) == {int}:
                    return bytes(numbers)
            except (TypeError, KeyError, ValueError):
                pass
        raise malformed(self.name, f"{key} is not 16 security version numbers")

    def status(self) -> TcbStatus:
        """The status of a level. Raises TcbRejected (``tcb_status_unrecognized``)."""
        text = self.text("tcbStatus")
        status = TcbStatus.of_level(text)
        if status is None:
            raise TcbRejected(code="tcb_status_unrecognized", found=text[:60])
        return status

    def advisories(self) -> frozenset[str]:
        """The security advisories of a level; none where it names none."""
        values = self._members.get("advisoryIDs", [])
        if not isinstance(values, list) or len(values) > _MAX_ADVISORIES:
            raise malformed(self.name, "advisoryIDs is not a list")
        if not set(map(type, values)) <= {str}:
            raise malformed(self.name, "advisoryIDs is not a list of texts")
        return frozenset(values)


def malformed(name: str, detail: str) -> CollateralInvalid:
    """The error for a document that is not what its schema says."""
    return CollateralInvalid(code=f"{name}_malformed", detail=detail)
