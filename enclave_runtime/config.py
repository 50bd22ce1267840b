"""What a node is told at its start: a measured command line, and what the host hands over beside it.

The command line is one JSON object, the node's only argument. The platform measures its bytes, so it says
everything that matters to a user of the node, and nothing that depends on where the files of this host lie.

What the host chooses (paths of volumes, the staple, address and port) comes in the environment. None of it is
trusted: the volumes were measured, the staple is checked by whoever uses the node, and the port carries
ciphertext.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import rfc8785

from enclave_runtime.errors import ConfigurationError, NodeError
from enclave_runtime.exit_codes import ExitCode
from enclave_runtime.optimisations import refuse_by_name
from enclave_runtime.seal import TOLERABLE, Piece

MAX_COMMAND_LINE = 32 * 1024
"""Bytes of a command line at most."""

HOST_INPUTS = "CLOISTER_HOST_INPUTS"
"""The environment variable with the host's inputs, a JSON object."""

PLATFORM_DESCRIPTOR = "CLOISTER_PLATFORM_FD"
"""The environment variable with the number of the descriptor that leads to the platform's devices."""

_VERSION = 1
_MODEL_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/:+-]{0,127}")


@dataclass(frozen=True, slots=True)
class NodeConfig:
    """The measured configuration. Every member has to be in the command line; ``model_name`` is what
    requests give.

    ``engine`` and ``padding`` hold the settings of EngineConfig and CellProfile, ``gpu_policy`` the tables
    of an attestation policy by which the node judges its own GPUs, ``tolerate`` the pieces of the seal that
    a kernel may lack, ``tokens`` which blind tokens requests must bring (empty: none).
    """

    model_name: str
    platform: str = "simulated"
    gpu_count: int = 1
    gpu_policy: Mapping[str, Any] = field(default_factory=dict)
    epoch_hours: int = 24
    engine: Mapping[str, int] = field(default_factory=dict)
    padding: Mapping[str, str | int] = field(default_factory=dict)
    tolerate: tuple[Piece, ...] = ()
    tokens: Mapping[str, Any] = field(default_factory=dict)

    def encode(self) -> bytes:
        """The command line: canonical JSON (RFC 8785), as :meth:`parse` takes it."""
        members = asdict(self)
        members["tolerate"] = [piece.value for piece in self.tolerate]
        return rfc8785.dumps({"v": _VERSION, **members})

    @classmethod
    def parse(cls, command_line: bytes) -> "NodeConfig":
        """Read a command line. Raises ConfigurationError for whatever is not exactly version 1."""
        members = _object(command_line, MAX_COMMAND_LINE, "config_malformed")
        expected = {"v", *cls.__dataclass_fields__}
        if set(members) != expected:
            odd = sorted(set(members) ^ expected)
            raise ConfigurationError("config_members", f"missing or unknown: {', '.join(odd)[:200]}")
        if type(members["v"]) is not int or members["v"] != _VERSION:
            raise ConfigurationError("config_version", f"version {_VERSION} is the only one known")
        name, platform = members["model_name"], members["platform"]
        if not isinstance(name, str) or not _MODEL_NAME.fullmatch(name):
            raise ConfigurationError("config_model_name", "not a plain name of at most 128 characters")
        if platform != "simulated":
            raise ConfigurationError(
                "not_available", "the only platform that can be opened here is 'simulated'"
            )
        for table in ("gpu_policy", "engine", "padding", "tokens"):
            if not isinstance(members[table], dict):
                raise ConfigurationError("config_malformed", f"'{table}' is not an object")
        refuse_by_name(members["engine"])
        return cls(
            model_name=name,
            platform=platform,
            gpu_count=_whole(members, "gpu_count", 0, 255),
            gpu_policy=members["gpu_policy"],
            epoch_hours=_whole(members, "epoch_hours", 3, 24 * 7),
            engine=members["engine"],
            padding=members["padding"],
            tolerate=_pieces(members["tolerate"]),
            tokens=members["tokens"],
        )


@dataclass(frozen=True, slots=True)
class HostInputs:
    """What the host hands over: paths of the model volume and of the staple, where to listen."""

    model: Path
    staple: Path
    address: str
    port: int

    def encode(self) -> str:
        """The value for the environment variable."""
        members = {
            "model": str(self.model),
            "staple": str(self.staple),
            "address": self.address,
            "port": self.port,
        }
        return json.dumps(members)

    @classmethod
    def parse(cls, environment: Mapping[str, str]) -> tuple["HostInputs", int]:
        """The inputs and the platform's descriptor. Raises NodeError with HOST_INPUT."""
        try:
            members = _object(environment[HOST_INPUTS].encode(), MAX_COMMAND_LINE, "host_inputs_malformed")
            descriptor = environment[PLATFORM_DESCRIPTOR]
            if set(members) != set(cls.__dataclass_fields__):
                raise ConfigurationError("host_inputs_malformed", "members are missing or unknown")
            texts = [members[name] for name in ("model", "staple", "address")]
            if not all(isinstance(text, str) and text and "\0" not in text for text in texts):
                raise ConfigurationError("host_inputs_malformed", "a path or the address is no text")
            if not re.fullmatch(r"[0-9]{1,5}", descriptor) or int(descriptor) <= 2:
                raise ConfigurationError("platform_descriptor", "not the number of a descriptor")
            port = _whole(members, "port", 0, 65_535)
        except KeyError as error:
            raise NodeError("host_inputs_missing", ExitCode.HOST_INPUT, str(error.args[0])) from None
        except ConfigurationError as error:
            raise NodeError(error.code, ExitCode.HOST_INPUT, error.detail) from None
        inputs = cls(Path(members["model"]), Path(members["staple"]), members["address"], port)
        return inputs, int(descriptor)


def _object(data: bytes, limit: int, code: str) -> dict[str, Any]:
    if len(data) > limit:
        raise ConfigurationError(code, f"longer than {limit} bytes")
    try:
        value = json.loads(data.decode("utf-8"), object_pairs_hook=_distinct, parse_constant=_no_constant)
    except (ValueError, RecursionError):
        raise ConfigurationError(code, "not JSON, or a member appears twice") from None
    if not isinstance(value, dict):
        raise ConfigurationError(code, "not a JSON object")
    return value


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len({name for name, _ in pairs}) != len(pairs):
        raise ValueError
    return dict(pairs)


def _no_constant(name: str) -> None:
    raise ValueError(name)


def _whole(members: Mapping[str, Any], name: str, least: int, most: int) -> int:
    value = members[name]
    if type(value) is not int or not least <= value <= most:
        raise ConfigurationError("config_range", f"'{name}' is not a whole number from {least} to {most}")
    return value


def _pieces(value: object) -> tuple[Piece, ...]:
    try:
        pieces = tuple(Piece(name) for name in value) if isinstance(value, list) else None
    except ValueError:
        pieces = None
    if pieces is None or len(set(pieces)) != len(pieces) or not TOLERABLE.issuperset(pieces):
        names = ", ".join(sorted(TOLERABLE))
        raise ConfigurationError("config_tolerate", f"a list of some of: {names}")
    return pieces
