"""Answers of NVIDIA's remote attestation service (NRAS): a second opinion, judged without asking anybody.

An answer is ``[["JWT", overall], {"GPU-0": token, ...}]``: an overall token that lists the SHA-256 of every
device's token, each signed with ES384 (RFC 7518) and in the form of RFC 9711's detached EAT bundles. NVIDIA's
Python tools wrap it in an outer token signed with a public constant; that one proves nothing and is not read.
"""

import base64
import binascii
import hashlib
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from attestation.errors import EvidenceMalformed
from attestation.nvidia.claim_rules import GPU, SWITCH, ClaimRules, default_rules
from attestation.nvidia.errors import ClaimError, DuplicateGpu, GpuRefused, NonceError, TokenError
from attestation.nvidia.nras_keys import NRAS_AUTHORITIES_SHA256, ServiceKey, ServiceKeys
from attestation.strict_json import load_object, load_value

ISSUER: Final = "https://nras.attestation.nvidia.com"
SUBJECT: Final = "NVIDIA-PLATFORM-ATTESTATION"
CLAIMS_VERSIONS: Final = frozenset({"2.0", "3.0"})

MAX_ANSWER: Final = 1024 * 1024
"""Bytes of an answer at most (eight GPUs take 18 kB)."""

_MAX_TOKEN: Final = 64 * 1024
_MAX_DEVICES: Final = 32
_STAGE: Final = "gpu.nras"
_TOKEN: Final = re.compile(r"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]*")
_DEVICE: Final = re.compile(r"(GPU|SWITCH)-(?:0|[1-9][0-9]{0,2})")
_WRAPPED: Final = re.compile(r"REMOTE_(?:GPU|SWITCH)_CLAIMS")
_DIGEST: Final = re.compile(r"[0-9a-fA-F]{64}")
_NONCE: Final = re.compile(r"[0-9a-fA-F]{64}")
_UEID: Final = re.compile(r"[0-9A-Za-z]{1,128}")
_SHA256_NAMES: Final = ("SHA-256", "SHA256")  # the service writes the first, NVIDIA's local tools the second
_LATEST: Final = int(datetime(9999, 12, 31, tzinfo=UTC).timestamp())


@dataclass(frozen=True, slots=True)
class NrasPolicy:
    """Demands on an answer. The default is NVIDIA's production service.

    ``authorities``: SHA-256 (hexadecimal) of the keys of the authorities that issue the service's keys.
    ``claims_versions``: what NVIDIA's claims may be written in. ``rules``: more demands on claims, such as
    a policy file of NVIDIA; they add to `default_rules` and take nothing away. ``skew``: how far clocks may
    differ. ``longest``: the longest time a token may be good for.
    """

    authorities: frozenset[str] = NRAS_AUTHORITIES_SHA256
    issuer: str = ISSUER
    claims_versions: frozenset[str] = CLAIMS_VERSIONS
    rules: ClaimRules | None = None
    skew: timedelta = timedelta(seconds=60)
    longest: timedelta = timedelta(hours=24)


@dataclass(frozen=True, slots=True)
class TokenDevice:
    """What the service says of one device: its name in the answer ("GPU-0"), its UEID, and all claims."""

    name: str
    ueid: str
    claims: Mapping[str, Any]

    @property
    def warning(self) -> str | None:
        """What the service warns of, or None."""
        warning = self.claims.get("x-nvidia-attestation-warning")
        return None if warning is None else str(warning)[:200]


@dataclass(frozen=True, slots=True)
class VerifiedAnswer:
    """An answer that is the service's, is about our nonce, and says only good about every device."""

    claims_version: str
    issued_at: datetime
    expires_at: datetime
    overall: Mapping[str, Any]
    devices: tuple[TokenDevice, ...]


def verify_answer(
    answer: bytes,
    key_set: bytes,
    *,
    nonce: bytes,
    count: int,
    at: datetime,
    policy: NrasPolicy | None = None,
) -> VerifiedAnswer:
    """Verify an answer (JSON as the service gives it) with a key set (JSON) at the time ``at`` (aware).

    ``nonce`` is the 32 bytes that the devices signed, ``count`` how many devices there must be.

    Raises `TokenError` (``token_malformed``, ``token_algorithm``, ``token_signature``, ``token_issuer``,
    ``token_subject``, ``token_expired``, ``token_not_yet``, ``token_lifetime``, ``submod_set``,
    ``submod_digest``, ``time_invalid``), `TokenKeyError` (``key_…``), `NonceError` (``nonce_mismatch``),
    `ClaimError` (``claims_version``, ``overall_false``, ``claim_missing``, ``claim_type``,
    ``claim_mismatch``), `GpuRefused` (``policy_gpu_count``) or `DuplicateGpu` (``duplicate_gpu``).
    """
    if at.tzinfo is None:
        raise _error("time_invalid", "the time of appraisal carries no time zone")
    demands = policy or NrasPolicy()
    overall_token, device_tokens = _parse_answer(answer)
    keys = ServiceKeys.parse(key_set, demands.authorities)
    overall = _claims(overall_token, keys, nonce, demands, at, None)
    if overall.get("sub") != SUBJECT:
        raise _error("token_subject", "", SUBJECT, overall.get("sub"))
    version = _claims_version(overall, demands)
    _check_digests(overall, device_tokens)
    devices = tuple(
        _device(place, name, _claims(token, keys, nonce, demands, at, place))
        for place, (name, token) in enumerate(device_tokens.items())
    )
    _check_devices(devices, count)
    _check_overall_result(overall)
    kind = GPU if devices[0].name.startswith("GPU") else SWITCH
    for rules in (default_rules(version, kind), demands.rules or ClaimRules()):
        rules.check_overall(overall)
        for place, device in enumerate(devices):
            rules.check_device(device.claims, place)
    return VerifiedAnswer(
        claims_version=version,
        issued_at=_time(overall, "iat", None),
        expires_at=_time(overall, "exp", None),
        overall=overall,
        devices=devices,
    )


def check_same_devices(answer: VerifiedAnswer, gpus: Sequence[tuple[str, str, str]]) -> None:
    """The answer is about these GPUs, each given as (UEID, driver version, VBIOS version), and no others.

    Without this, the service's word about one machine could stand beside the evidence of another.
    Raises `ClaimError` (``claim_mismatch``).
    """
    theirs = {
        (
            device.ueid,
            str(device.claims.get("x-nvidia-gpu-driver-version")),
            str(device.claims.get("x-nvidia-gpu-vbios-version")).upper(),
        )
        for device in answer.devices
    }
    ours = {(ueid, driver, vbios.upper()) for ueid, driver, vbios in gpus}
    if theirs != ours:
        raise ClaimError(
            code="claim_mismatch",
            stage=_STAGE,
            detail="the service speaks of other devices than the evidence",
            expected=sorted(ours - theirs),
            found=sorted(theirs - ours),
        )


def _parse_answer(data: bytes) -> tuple[str, dict[str, str]]:
    try:
        value = load_value(data, limit=MAX_ANSWER, code="token_malformed")
    except EvidenceMalformed as error:
        raise _error("token_malformed", error.detail) from None
    overall, devices = _split(value)
    if len(devices) == 1 and _WRAPPED.fullmatch(next(iter(devices))):
        overall, devices = _split(next(iter(devices.values())))
    if len(devices) > _MAX_DEVICES:
        raise _error("token_malformed", "too many devices", f"at most {_MAX_DEVICES}", len(devices))
    for name in devices:
        if not _DEVICE.fullmatch(name):
            raise _error("token_malformed", "name of a device token", "GPU-0, GPU-1, …", name[:40])
    if len({name.partition("-")[0] for name in devices}) > 1:
        raise _error("token_malformed", "GPUs and switches in one answer")
    return _token(overall, "the overall token"), {
        name: _token(token, f"the token of {name}") for name, token in devices.items()
    }


def _split(value: object) -> tuple[object, dict[str, Any]]:
    if not isinstance(value, list) or len(value) != 2:
        raise _error("token_malformed", "the answer is not a pair of tokens")
    head, devices = value
    if not isinstance(head, list) or len(head) != 2 or head[0] != "JWT":
        raise _error("token_malformed", "the answer does not begin with an overall token")
    if not isinstance(devices, dict):
        raise _error("token_malformed", "the device tokens are not an object")
    return head[1], devices


def _token(value: object, what: str) -> str:
    if not isinstance(value, str) or len(value) > _MAX_TOKEN or not _TOKEN.fullmatch(value):
        raise _error("token_malformed", f"{what} is not a compact token")
    return value


def _claims(
    token: str, keys: ServiceKeys, nonce: bytes, policy: NrasPolicy, at: datetime, place: int | None
) -> dict[str, Any]:
    """The claims of one token of the service's that is in force and answers our nonce."""
    header_part, payload_part, _ = token.split(".")
    header = _json_part(header_part, "header", place)
    if header.get("alg") != "ES384":
        raise _error("token_algorithm", "", "ES384", header.get("alg"), place)
    if {"crit", "b64"} & header.keys():
        raise _error("token_malformed", "the header asks for an extension", place=place)
    key = keys.find(header.get("kid"))
    _check_signature(token, key, place)
    claims = _json_part(payload_part, "payload", place)
    if claims.get("iss") != policy.issuer:
        raise _error("token_issuer", "", policy.issuer, claims.get("iss"), place)
    _check_times(claims, key, policy, at, place)
    stated = _text(claims, "eat_nonce", place)
    if not _NONCE.fullmatch(stated) or bytes.fromhex(stated) != nonce:
        raise _with_place(
            NonceError(code="nonce_mismatch", stage=_STAGE, expected=nonce.hex(), found=stated), place
        )
    return claims


def _check_signature(token: str, key: ServiceKey, place: int | None) -> None:
    import jwt  # here, so that a client that never asks NVIDIA's service does not load it

    try:
        jwt.PyJWS(algorithms=["ES384"]).decode_complete(token, key=key.public_key, algorithms=["ES384"])
    except jwt.InvalidSignatureError:
        raise _error("token_signature", "the key did not sign this token", place=place) from None
    except jwt.PyJWTError as error:
        raise _error("token_malformed", str(error)[:80], place=place) from None


def _json_part(part: str, what: str, place: int | None) -> dict[str, Any]:
    try:
        data = base64.urlsafe_b64decode(part + "=" * (-len(part) % 4))
        if base64.urlsafe_b64encode(data).rstrip(b"=").decode("ascii") != part:
            raise _error("token_malformed", f"{what} is not canonical base64url", place=place)
        return load_object(data, limit=_MAX_TOKEN, code="token_malformed")
    except binascii.Error:
        raise _error("token_malformed", f"{what} is not base64url", place=place) from None
    except TokenError:
        raise
    except EvidenceMalformed as error:
        raise _error("token_malformed", f"{what}: {error.detail}", place=place) from None


def _check_times(
    claims: Mapping[str, Any], key: ServiceKey, policy: NrasPolicy, at: datetime, place: int | None
) -> None:
    issued, expires = _time(claims, "iat", place), _time(claims, "exp", place)
    begins = _time(claims, "nbf", place) if "nbf" in claims else issued
    key.require_in_force(issued)
    if expires - issued > policy.longest:
        raise _error("token_lifetime", "", f"at most {policy.longest}", str(expires - issued), place)
    # Subtracting times cannot overflow as moving one of them near the end of the calendar would.
    if at - expires >= policy.skew:
        raise _error("token_expired", "", f"until {expires.isoformat()}", at.isoformat(), place)
    if max(begins, issued) - at > policy.skew:
        raise _error("token_not_yet", "", f"from {max(begins, issued).isoformat()}", at.isoformat(), place)


def _time(claims: Mapping[str, Any], name: str, place: int | None) -> datetime:
    value = _claim(claims, name, place)
    if type(value) is not int or not 0 <= value <= _LATEST:
        raise _claim_error("claim_type", name, "seconds since 1970", value, place)
    return datetime.fromtimestamp(value, UTC)


def _text(claims: Mapping[str, Any], name: str, place: int | None) -> str:
    value = _claim(claims, name, place)
    if not isinstance(value, str):
        raise _claim_error("claim_type", name, "text", value, place)
    return value


def _claim(claims: Mapping[str, Any], name: str, place: int | None) -> Any:
    if name not in claims:
        raise _claim_error("claim_missing", name, None, None, place)
    return claims[name]


def _claims_version(overall: Mapping[str, Any], policy: NrasPolicy) -> str:
    version = _text(overall, "x-nvidia-ver", None)
    # A version that no default rules exist for cannot be judged, whatever the policy allows.
    if version not in policy.claims_versions & CLAIMS_VERSIONS:
        raise _claim_error("claims_version", "x-nvidia-ver", sorted(policy.claims_versions), version, None)
    return version


def _check_digests(overall: Mapping[str, Any], tokens: Mapping[str, str]) -> None:
    submodules = _claim(overall, "submods", None)
    if not isinstance(submodules, dict):
        raise _claim_error("claim_type", "submods", "an object", submodules, None)
    if submodules.keys() != tokens.keys():
        raise _error(
            "submod_set",
            "the overall token lists other devices than there are tokens",
            sorted(submodules)[:_MAX_DEVICES],
            sorted(tokens),
        )
    for place, (name, token) in enumerate(tokens.items()):
        found = hashlib.sha256(token.encode("ascii")).hexdigest()
        if _listed_digest(submodules[name], place) != found:
            raise _error("submod_digest", f"the overall token lists another {name}", found=found, place=place)


def _listed_digest(value: object, place: int) -> str:
    match value:
        case ["DIGEST", [str() as name, str() as digest]] if name in _SHA256_NAMES and _is_digest(digest):
            return digest.lower()
    raise _error("submod_digest", 'not ["DIGEST", ["SHA-256", …]]', place=place)


def _is_digest(text: str) -> bool:
    return _DIGEST.fullmatch(text) is not None


def _device(place: int, name: str, claims: Mapping[str, Any]) -> TokenDevice:
    ueid = _text(claims, "ueid", place)
    if not _UEID.fullmatch(ueid):
        raise _claim_error("claim_type", "ueid", "letters and digits", ueid, place)
    return TokenDevice(name, ueid, claims)


def _check_devices(devices: Collection[TokenDevice], count: int) -> None:
    if not devices or len(devices) != count:
        raise GpuRefused(
            code="policy_gpu_count",
            stage=_STAGE,
            expected=count if count else "at least 1",
            found=len(devices),
        )
    seen: dict[str, str] = {}
    for device in devices:
        if device.ueid in seen:
            raise DuplicateGpu(
                code="duplicate_gpu",
                stage=_STAGE,
                detail=f"{seen[device.ueid]} and {device.name} are one device",
                found=device.ueid,
            )
        seen[device.ueid] = device.name


def _check_overall_result(overall: Mapping[str, Any]) -> None:
    name = "x-nvidia-overall-att-result"
    result = _claim(overall, name, None)
    if not isinstance(result, bool):
        raise _claim_error("claim_type", name, True, repr(result)[:40], None)
    if not result:
        raise _claim_error("overall_false", name, True, False, None)


def _claim_error(code: str, name: str, expected: object, found: object, place: int | None) -> ClaimError:
    error = ClaimError(code=code, stage=_STAGE, detail=name, expected=expected, found=found)
    error.gpu = place
    return error


def _error(
    code: str, detail: str, expected: object = None, found: object = None, place: int | None = None
) -> TokenError:
    error = TokenError(
        code=code,
        stage=_STAGE,
        detail=detail,
        expected=expected,
        found=found,
        retryable=code in ("token_expired", "token_not_yet"),
    )
    error.gpu = place
    return error


def _with_place(error: NonceError, place: int | None) -> NonceError:
    error.gpu = place
    return error
