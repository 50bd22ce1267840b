"""What can go wrong on the way of an encrypted prompt: one family, so that one ``except`` catches all of it.

    OhttpError
    ├── VarintError           a number does not fit a variable-length integer
    ├── HpkeError             HPKE refused a key, an encapsulation, a ciphertext or a suite
    ├── KeyConfigError        a key configuration is malformed or holds nothing usable
    │   └── UnknownKey        a request names a key that this gateway does not have
    │       └── UnsupportedSuite  the key is known, but not with those algorithms
    ├── EncapsulationError    an encapsulated message is malformed or does not authenticate
    ├── ChunkError            a chunked message is truncated, malformed, too large or does not authenticate
    ├── SessionReused         a single-use session was used twice, or out of order
    ├── BhttpError            a Binary HTTP message is malformed or beyond a limit
    ├── DiscoveryError        a service does not say where its gateway is
    ├── PaddingError          a response has another shape than was promised, or the promise is unreadable
    ├── ReplayError           a request was seen before, is stale, or cannot be remembered
    ├── TokenError            a blind signature, a token, its challenge or its issuer is not acceptable
    └── RelayError            the relay cannot pass a message on

None of them derives from ``EOFError`` or ``StopIteration``: a cut stream must never pass for a clean end.
No message holds plaintext, key material or bytes that a peer chose.
"""


class OhttpError(Exception):
    """Root of this package's errors.

    ``code`` is stable and meant for programs; ``detail`` is one fixed sentence for people.
    """

    def __init__(self, code: str, detail: str = "") -> None:
        super().__init__(code, detail)
        self.code = code
        self.detail = detail

    def __str__(self) -> str:
        return f"{self.code}: {self.detail}" if self.detail else self.code


class VarintError(OhttpError):
    """A number is negative or needs more than 62 bits."""


class HpkeError(OhttpError):
    """HPKE (RFC 9180) refused to go on.

    Codes: ``unsupported_kem``, ``unsupported_suite``, ``invalid_public_key``, ``invalid_private_key``,
    ``invalid_encapsulation``, ``invalid_psk``, ``wrong_kem``, ``ephemeral_unsupported``,
    ``ephemeral_reused``, ``decrypt``, ``sequence_exhausted``, ``export_only``, ``invalid_length``.
    """


class KeyConfigError(OhttpError):
    """A key configuration cannot be used.

    Codes: ``malformed``, ``too_large``, ``no_keys``, ``duplicate_key_id``, ``invalid_key_id``,
    ``unsupported_suite``, ``key_mismatch``.
    """


class UnknownKey(KeyConfigError):
    """The gateway has no such key (code ``unknown_key``): the client's configuration is out of date.

    RFC 9458 section 5.3: answered with the problem type ``ohttp-key``, as is the subclass below.
    """


class UnsupportedSuite(UnknownKey):
    """The key exists, but not for these algorithms (code ``unsupported_suite``)."""


class EncapsulationError(OhttpError):
    """An encapsulated message cannot be opened or made. Codes: ``truncated``, ``too_large``, ``decrypt``.

    ``decrypt`` has one message for every cause, so that the sender of a forged message learns nothing.
    """


class ChunkError(OhttpError):
    """A chunked message cannot be opened or made.

    Codes: ``truncated`` (the stream ended before the final chunk), ``decrypt``, ``empty_chunk``,
    ``chunk_too_large``, ``message_too_large``.
    """


class SessionReused(OhttpError):
    """A session was asked for what it has done already, or cannot do yet. ``reused``, ``out_of_order``."""


class BhttpError(OhttpError):
    """A Binary HTTP message (RFC 9292) is malformed, truncated or beyond a limit."""


class DiscoveryError(OhttpError):
    """A service's gateway cannot be found.

    Codes: ``origin``, ``redirected``, ``status``, ``media_type``, ``encoded``, ``too_large``, ``slow``.
    """


class PaddingError(OhttpError):
    """A padding profile is not kept, or not known. Codes: ``profile``, ``cell``, ``ladder``."""


class ReplayError(OhttpError):
    """A request was refused by the replay window. Codes: ``replayed``, ``stale``, ``full``."""


class TokenError(OhttpError):
    """A blind signature (RFC 9474) or a Privacy Pass token (RFC 9577, 9578) cannot be made or taken.

    Codes: ``malformed``, ``too_large``, ``unsupported`` (a token type or a key that is not of type 2),
    ``invalid_key``, ``key_too_small``, ``invalid_input``, ``blinding``, ``invalid_signature``,
    ``signing_fault``, ``signing_failed``, ``no_libcrypto``, ``unknown_key``, ``key_mismatch``, ``key_expired``,
    ``other_challenge``, ``required``, ``spent``, ``full``, ``store``, ``not_allowed``, ``limit``, ``empty``,
    ``wallet``, ``issuer``, ``configuration``.
    """


class RelayError(OhttpError):
    """The relay cannot pass a message on."""
