"""Who must have signed: the identity in a Fulcio certificate, by values that are equal or not.

Extension numbers are those of Fulcio's registry (1.3.6.1.4.1.57264.1.*).
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Final

from ..errors import Code, TransparencyError

_FULCIO: Final = "1.3.6.1.4.1.57264.1"
_ISSUER_V1: Final = 1
_ISSUER_V2: Final = 8
_RULED: Final[Mapping[str, int]] = {
    "runner_environment": 11,
    "source_repository": 12,
    "source_repository_id": 15,
    "source_owner_id": 17,
    "build_trigger": 20,
}
_MAX_TAG: Final = 128
_STAGE: Final = "sigstore.identity"


@dataclass(frozen=True, slots=True)
class CertificateIdentity:
    """What a certificate says about its holder: the one subject alternative name, the OIDC issuer, and the
    further claims by the names that a policy gives them.
    """

    subject: str
    issuer: str
    claims: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class IdentityRule:
    """Which identity is accepted.

    Either ``subject`` is the whole subject alternative name, or ``workflow`` and ``tags``: then it is
    ``<workflow>@refs/tags/<tag>``, and the *whole* tag matches the regular expression ``tags``. ``issuer`` is
    the OIDC issuer. Every other rule that is not empty must equal the certificate's claim; numeric
    identifiers of repositories and owners survive a change of name. Comparison is exact: case counts.
    """

    issuer: str
    subject: str = ""
    workflow: str = ""
    tags: str = ""
    source_repository: str = ""
    source_repository_id: str = ""
    source_owner_id: str = ""
    runner_environment: str = ""
    build_trigger: str = ""

    def __post_init__(self) -> None:
        """Raises TransparencyError (TRUST_ROOT_INVALID) for a rule that could mean more than it says."""
        if not self.issuer:
            raise _invalid("issuer is missing")
        if bool(self.subject) == bool(self.workflow) or bool(self.workflow) != bool(self.tags):
            raise _invalid("either subject, or workflow and tags")
        if "@" in self.workflow:
            raise _invalid("workflow ends before the @")
        try:
            re.compile(self.tags)
        except re.error as error:
            raise _invalid("tags is not a regular expression") from error

    @classmethod
    def from_table(cls, table: Mapping[str, Any]) -> "IdentityRule":
        """Read a policy's members; those of other subjects are not for here. Raises TransparencyError."""
        known = {field.name for field in fields(cls)}
        for name, value in table.items():
            if name not in known:
                raise _invalid(f"unknown key {name!r}")
            if not isinstance(value, str) or not value:
                raise _invalid(f"{name} must be a string")
        return cls(**{"issuer": "", **table})

    def check(self, found: CertificateIdentity) -> None:
        """Raises TransparencyError (IDENTITY_MISMATCH) unless ``found`` satisfies every part."""
        _equal("issuer", self.issuer, found.issuer)
        if self.subject:
            _equal("subject", self.subject, found.subject)
        else:
            prefix = f"{self.workflow}@refs/tags/"
            tag = found.subject.removeprefix(prefix)
            named = found.subject.startswith(prefix) and len(tag) <= _MAX_TAG
            if not named or re.fullmatch(self.tags, tag) is None:
                raise _mismatch("subject", f"{prefix}<{self.tags}>", found.subject)
        for name in _RULED:
            expected: str = getattr(self, name)
            if expected:
                _equal(name, expected, found.claims.get(name, ""))


def read_identity(certificate: Any) -> CertificateIdentity:
    """The identity in an ``x509.Certificate`` that is already trusted.

    Raises TransparencyError (IDENTITY_MISMATCH) where there is not exactly one URI or mail name, no issuer, or
    two issuers that differ.
    """
    from cryptography import x509

    extensions = certificate.extensions
    try:
        names = list(extensions.get_extension_for_class(x509.SubjectAlternativeName).value)
    except x509.ExtensionNotFound as error:
        raise _mismatch("subject", "one name", "none") from error
    if len(names) != 1 or not isinstance(names[0], x509.UniformResourceIdentifier | x509.RFC822Name):
        raise _mismatch("subject", "one URI or mail name", f"{len(names)} names")
    issuers = {
        issuer
        for issuer in (_raw_text(extensions, _ISSUER_V1), _der_text(extensions, _ISSUER_V2))
        if issuer is not None
    }
    if len(issuers) != 1:
        raise _mismatch("issuer", "one OIDC issuer", f"{len(issuers)} of them")
    claims = {name: _der_text(extensions, number) for name, number in _RULED.items()}
    return CertificateIdentity(
        names[0].value, issuers.pop(), {name: value for name, value in claims.items() if value is not None}
    )


def _extension(extensions: Any, number: int) -> bytes | None:
    from cryptography import x509

    try:
        found = extensions.get_extension_for_oid(x509.ObjectIdentifier(f"{_FULCIO}.{number}"))
    except x509.ExtensionNotFound:
        return None
    value: bytes = found.value.value
    return value


def _raw_text(extensions: Any, number: int) -> str | None:
    value = _extension(extensions, number)
    return None if value is None else _utf8(value)


def _der_text(extensions: Any, number: int) -> str | None:
    """A DER UTF8String with the shortest length, nothing behind it."""
    value = _extension(extensions, number)
    if value is None:
        return None
    if len(value) < 2:
        raise _mismatch("extension", "a DER UTF8String", value.hex())
    header = 2 if value[1:2] < b"\x80" else 3 if value[1:2] == b"\x81" else 4
    length = value[1] if header == 2 else int.from_bytes(value[2:header], "big")
    shortest = header == 2 or length >= (0x80 if header == 3 else 0x100)
    if value[:1] != b"\x0c" or value[1:2] > b"\x82" or not shortest or len(value) != header + length:
        raise _mismatch("extension", "a DER UTF8String", value[:16].hex())
    return _utf8(value[header:])


def _utf8(value: bytes) -> str:
    try:
        return value.decode("utf-8")
    except UnicodeDecodeError as error:
        raise _mismatch("extension", "UTF-8", value[:16].hex()) from error


def _equal(what: str, expected: str, found: str) -> None:
    if found != expected:
        raise _mismatch(what, expected, found)


def _mismatch(what: str, expected: str, found: str) -> TransparencyError:
    return TransparencyError(
        Code.IDENTITY_MISMATCH,
        f"signed under another {what}",
        stage=_STAGE,
        expected=expected,
        found=found[:300],
    )


def _invalid(why: str) -> TransparencyError:
    return TransparencyError(Code.TRUST_ROOT_INVALID, f"Sigstore identity: {why}", stage="policy")
