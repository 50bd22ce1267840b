"""What a client reads from a node's runtime manifest, once verified claims vouch for it: model, padding, tokens, and
what it says of leases, drafts and optimisations.
"""

import hashlib
import json
from dataclasses import dataclass

from attestation.claims import Claims
from attestation.errors import AttestationError
from ohttp.errors import PaddingError, TokenError
from ohttp.padding import CellProfile
from ohttp.token_policy import TokenPolicy

from .policy import Policy
from .verify_optimisations import CHECKS as OPTIMISATIONS
from .verify_optimisations import Optimisations, appraise_optimisations
from .verify_rows import Recorder

_SHAPES = {
    "off": "off: sizes and times of an answer show",
    "bucket": "bucket: cells of {cell} bytes, times show",
    "constant": "constant: {cell} bytes each {interval} ms",
}
_CHECKS = ("runtime.model", "runtime.padding", "runtime.tokens", *OPTIMISATIONS)


@dataclass(frozen=True, slots=True)
class VerifiedRuntime:
    """``model``: its name in requests; ``padding``: the shape of answers; ``tokens``: what requests must bring;
    ``optimisations``: what outlives a request, and how answers are computed.
    """

    model: str
    padding: CellProfile
    tokens: TokenPolicy | None
    optimisations: Optimisations


def appraise_runtime(
    rows: Recorder, runtime: bytes, claims: Claims | None, policy: Policy
) -> VerifiedRuntime | None:
    """Check the manifest; None where a row failed."""
    if claims is None or hashlib.sha256(runtime).digest() != claims.runtime:
        for check in _CHECKS:
            rows.not_evaluated(check, "needs a runtime manifest that verified claims name")
        return None
    try:
        manifest = json.loads(runtime)
    except (ValueError, RecursionError):
        manifest = None
    document = manifest if isinstance(manifest, dict) else {}
    model = _model(rows, document.get("model"), document.get("kernels"))
    padding = _padding(rows, document.get("padding"), policy)
    tokens_readable, tokens = _tokens(rows, document.get("tokens", {}))
    optimisations = appraise_optimisations(rows, document)
    if model is None or padding is None or optimisations is None or not tokens_readable:
        return None
    return VerifiedRuntime(model, padding, tokens, optimisations)


def _model(rows: Recorder, stated: object, kernels: object) -> str | None:
    name, digest = (stated.get("name"), stated.get("digest")) if isinstance(stated, dict) else (None, None)
    if isinstance(name, str) and name and isinstance(digest, str):
        rows.passed("runtime.model", f"{name}, digest {digest[:16]}…{_computed_by(kernels)}")
        return name
    malformed = AttestationError(
        code="runtime_malformed", stage="parse", detail="the runtime manifest names no model"
    )
    rows.failed("runtime.model", malformed)
    return None


def _computed_by(kernels: object) -> str:
    """What computes, as far as the node says it: decoder, instruction set or GPU target, digest of the code."""
    if not isinstance(kernels, dict):
        return ""
    parts = [(kernels.get(name), most) for name, most in (("decoder", 24), ("path", 24), ("digest", 16))]
    said = [
        part if len(part) <= most else f"{part[:most]}…"
        for part, most in parts
        if isinstance(part, str) and part.isprintable() and part
    ]
    return f", computed by {', '.join(said)}" if said else ""


def _padding(rows: Recorder, stated: object, policy: Policy) -> CellProfile | None:
    try:
        profile = CellProfile.from_manifest(stated)
    except PaddingError as error:
        rows.failed("runtime.padding", error)
        return None
    if profile.name not in policy.padding:
        refused = AttestationError(
            code="padding_not_allowed",
            stage="runtime",
            expected=" or ".join(sorted(policy.padding)),
            found=profile.name,
            detail="the policy's [runtime] padding does not name this node's profile",
        )
        rows.failed("runtime.padding", refused)
        return None
    shape = _SHAPES[profile.name].format(cell=profile.cell_bytes, interval=profile.interval_ms)
    rows.passed("runtime.padding", shape)
    return profile


def _tokens(rows: Recorder, stated: object) -> tuple[bool, TokenPolicy | None]:
    """Whether the table could be read, and the tokens that it asks for."""
    try:
        if not isinstance(stated, dict):
            raise TokenError("configuration", "'tokens' is no object")
        policy = TokenPolicy.parse(stated) if stated else None
    except TokenError as error:
        rows.failed("runtime.tokens", error)
        return False, None
    if policy is None:
        rows.not_required("runtime.tokens", "the node asks for no blind tokens")
    else:
        rows.passed("runtime.tokens", f"of {policy.issuer} for {policy.origin}, {len(policy.keys)} keys")
    return True, policy
