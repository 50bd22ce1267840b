"""Keyless signing: a certificate for an OIDC identity, a signature, a time stamp and a log entry, as one bundle.

This talks to a Sigstore instance over the network, and so it is for the operator's command line alone. The private
key is made for one signature and never leaves the ``sigstore`` package's memory.
"""

from dataclasses import dataclass

from sigstore.dsse import Statement
from sigstore.models import ClientTrustConfig
from sigstore.oidc import IdentityToken, detect_credential
from sigstore.sign import SigningContext

from ..errors import Code, TransparencyError
from .bundle import MAX_BUNDLE
from .root import TrustedRoot
from .strict_json import parse_strict

_STAGE = "sigstore.sign"


@dataclass(frozen=True, slots=True)
class Instance:
    """A Sigstore instance: where it is, and its trusted root; ``root_json`` is None where that is the pinned one."""

    config: ClientTrustConfig
    root_json: bytes | None

    @classmethod
    def parse(cls, data: bytes) -> "Instance":
        """Read a ClientTrustConfig document. Raises TransparencyError (TRUST_ROOT_INVALID)."""
        parse_strict(data, limit=MAX_BUNDLE, code=Code.TRUST_ROOT_INVALID, what="Sigstore configuration")
        try:
            config = ClientTrustConfig.from_json(data.decode())
        except (ValueError, RecursionError) as error:
            raise _error(Code.TRUST_ROOT_INVALID, "not a Sigstore client trust configuration") from error
        return cls(config, cls(config, None).current_root())

    @classmethod
    def public(cls) -> "Instance":
        """Sigstore's public instance, its addresses and its root fetched and verified by TUF. Needs the network.

        Raises TransparencyError (NOT_AVAILABLE).
        """
        try:
            current = cls(ClientTrustConfig.production(), None)
        except Exception as error:
            raise _error(
                Code.NOT_AVAILABLE, f"Sigstore cannot be reached ({type(error).__name__})"
            ) from error
        root = TrustedRoot.parse(current.current_root())
        # Clients that hold the pinned root need no other, unless the instance has moved on.
        pinned = root.model == TrustedRoot.production().model
        return current if pinned else cls(current.config, current.current_root())

    def current_root(self) -> bytes:
        """The instance's trusted root as it stands in its configuration."""
        root: str = self.config._inner.trusted_root.to_json()
        return root.encode()


def ambient_token() -> str:
    """The identity token that the surrounding service (a CI job, a cloud) offers to this process.

    Raises TransparencyError (NOT_AVAILABLE) where there is none.
    """
    try:
        token = detect_credential()
    except Exception as error:
        raise _error(
            Code.NOT_AVAILABLE, f"no identity token could be had ({type(error).__name__})"
        ) from error
    if not token:
        raise _error(Code.NOT_AVAILABLE, "no identity token in this environment; name a file that holds one")
    return token


def sign_statement(payload: bytes, instance: Instance, token: str) -> bytes:
    """A bundle around ``payload``, an in-toto statement, exactly as it stands.

    The bundle is not verified here. Raises TransparencyError: KEY_UNUSABLE (the token), NOT_AVAILABLE (the
    instance refused or could not be reached). No message holds the token.
    """
    try:
        identity = IdentityToken(token)
    except Exception as error:
        raise _error(Code.KEY_UNUSABLE, "the identity token is malformed or has run out") from error
    try:
        context = SigningContext.from_trust_config(instance.config)
        with context.signer(identity, cache=True) as signer:
            bundle: str = signer.sign_dsse(Statement(payload)).to_json()
            return bundle.encode()
    except Exception as error:
        # Its clients raise what their transports raise, and some quote the request: only the type is shown.
        raise _error(Code.NOT_AVAILABLE, f"Sigstore did not sign ({type(error).__name__})") from None


def _error(code: Code, why: str) -> TransparencyError:
    return TransparencyError(code, why, stage=_STAGE)
