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

from attestation.tees import AZURE_SNP, AZURE_TDX, SEV_SNP, TDX, TPM
from enclave_runtime.admission import AdmissionLimits
from enclave_runtime.decoder_choice import DecoderChoice
from enclave_runtime.draft_choice import DraftChoice
from enclave_runtime.errors import ConfigurationError, NodeError
from enclave_runtime.exit_codes import ExitCode
from enclave_runtime.gpu_access import GpuAccess
from enclave_runtime.lease_settings import LeaseSettings
from enclave_runtime.metrics_schema import DEFAULT, MetricsSchema
from enclave_runtime.optimisations import refuse_by_name
from enclave_runtime.seal import TOLERABLE, Piece

MAX_COMMAND_LINE = 32 * 1024
"""Bytes of a command line at most."""

HOST_INPUTS = "CLOISTER_HOST_INPUTS"
"""The environment variable with the host's inputs, a JSON object."""

PLATFORM_DESCRIPTOR = "CLOISTER_PLATFORM_FD"
"""The environment variable with the number of the descriptor that leads to the platform's devices."""

SIMULATED = "simulated"
_FOLDERS = {"collateral", "gpu_collateral"}
_TPM_HANDLES = range(0x8100_0000, 0x8180_0000)
_DEVICES: Mapping[str, Mapping[str, range]] = {
    SIMULATED: {},
    SEV_SNP: {"vmpl": range(4)},
    TDX: {"quote_service_port": range(1, 2**32 - 1)},
    TPM: {"tpm_ak": _TPM_HANDLES},
    AZURE_SNP: {},
    AZURE_TDX: {},
}
"""Every platform, with what may be said of its devices and in which range."""
STAPLE_DESCRIPTOR = "CLOISTER_STAPLE_FD"
"""The environment variable with the number of the pipe through which fresh staples come; it may be absent."""

MAX_PUBLIC_PREFIX = 16 * 1024
"""Characters of a public prefix at most."""

_VERSION = 1
_TABLES = (
    "devices",
    "gpu_policy",
    "engine",
    "padding",
    "tokens",
    "metrics",
    "admission",
    "decoder",
    "draft",
    "leases",
    "transparency",
)
_MODEL_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/:+-]{0,127}")


@dataclass(frozen=True, slots=True)
class NodeConfig:
    """The measured configuration. Every member has to be in the command line; ``model_name`` is what
    requests give.

    ``platform`` is ``simulated`` or the kind of evidence that this machine's own devices give; ``devices`` says what
    those need to be found: ``vmpl``, ``quote_service_port`` (of the host's vsock), ``tpm_ak`` (a handle).
    ``engine`` and ``padding`` hold the settings of EngineConfig and CellProfile, ``gpu_policy`` the tables
    of an attestation policy by which the node judges its own GPUs, ``tolerate`` the pieces of the seal that
    a kernel may lack, ``tokens`` which blind tokens requests must bring (empty: none), ``metrics`` the closed list
    of metrics (MetricsSchema), ``admission`` the limits of AdmissionLimits, ``public_prefix`` a system message that
    everybody knows, whose keys and values are computed at the start (empty: none), ``decoder`` the settings of
    DecoderChoice, ``draft`` those of DraftChoice (empty: no draft model), ``leases`` those of LeaseSettings
    (empty: none), ``transparency`` the table of a client's policy by which the node checks its own staples (empty: for
    consistency alone).
    """

    model_name: str
    platform: str = SIMULATED
    devices: Mapping[str, int] = field(default_factory=dict)
    gpu_count: int = 1
    gpu_policy: Mapping[str, Any] = field(default_factory=dict)
    epoch_hours: int = 24
    engine: Mapping[str, int] = field(default_factory=dict)
    padding: Mapping[str, str | int] = field(default_factory=dict)
    tolerate: tuple[Piece, ...] = ()
    tokens: Mapping[str, Any] = field(default_factory=dict)
    metrics: Mapping[str, Any] = field(default_factory=DEFAULT.table)
    public_prefix: str = ""
    admission: Mapping[str, int] = field(default_factory=dict)
    decoder: Mapping[str, str | int] = field(default_factory=dict)
    draft: Mapping[str, str | int] = field(default_factory=dict)
    leases: Mapping[str, int | str] = field(default_factory=dict)
    transparency: Mapping[str, Any] = field(default_factory=dict)

    def gpu_access(self) -> GpuAccess | None:
        """What a node of this configuration may reach of a GPU's driver."""
        return GpuAccess.of(DecoderChoice.from_table(self.decoder).kernels, self.gpu_count)

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
        if not isinstance(platform, str) or platform not in _DEVICES:
            raise ConfigurationError("config_platform", f"one of {', '.join(_DEVICES)}")
        for table in _TABLES:
            if not isinstance(members[table], dict):
                raise ConfigurationError("config_malformed", f"'{table}' is not an object")
        prefix = members["public_prefix"]
        if not isinstance(prefix, str) or len(prefix) > MAX_PUBLIC_PREFIX:
            raise ConfigurationError(
                "config_public_prefix", f"a text of at most {MAX_PUBLIC_PREFIX} characters"
            )
        refuse_by_name(members["engine"])
        MetricsSchema.parse(members["metrics"])
        AdmissionLimits.from_table(members["admission"])
        DecoderChoice.from_table(members["decoder"])
        DraftChoice.from_table(members["draft"])
        LeaseSettings.from_table(members["leases"])
        if members["transparency"]:
            # Here, not above: what judges signatures is loaded by those nodes alone.
            from enclave_runtime.staple_check import staple_policy

            staple_policy(members["transparency"])
        return cls(
            model_name=name,
            platform=platform,
            devices=_devices(platform, members["devices"]),
            gpu_count=_whole(members, "gpu_count", 0, 255),
            gpu_policy=members["gpu_policy"],
            epoch_hours=_whole(members, "epoch_hours", 3, 24 * 7),
            engine=members["engine"],
            padding=members["padding"],
            tolerate=_pieces(members["tolerate"]),
            tokens=members["tokens"],
            metrics=members["metrics"],
            public_prefix=prefix,
            admission=members["admission"],
            decoder=members["decoder"],
            draft=members["draft"],
            leases=members["leases"],
            transparency=members["transparency"],
        )


@dataclass(frozen=True, slots=True)
class HostInputs:
    """What the host hands over: paths of the model volume and of the staple, where to listen, and where to show
    metrics (port 0: any that is free).

    ``collateral`` and ``gpu_collateral`` are folders with what to staple to evidence of this machine's own devices
    (``cloister collateral fetch`` and ``fetch-gpu``).
    """

    model: Path
    staple: Path
    address: str
    port: int
    collateral: Path | None = None
    gpu_collateral: Path | None = None
    metrics_port: int = 0

    def encode(self) -> str:
        """The value for the environment variable."""
        members = {
            "model": str(self.model),
            "staple": str(self.staple),
            "address": self.address,
            "port": self.port,
            "collateral": str(self.collateral or ""),
            "gpu_collateral": str(self.gpu_collateral or ""),
            "metrics_port": self.metrics_port,
        }
        return json.dumps(members)

    @classmethod
    def parse(
        cls, environment: Mapping[str, str], platform: str = SIMULATED
    ) -> tuple["HostInputs", "Inherited"]:
        """The inputs and the descriptors; the platform's is -1 for one whose devices are this machine's own.

        Raises NodeError with HOST_INPUT.
        """
        try:
            members = _object(environment[HOST_INPUTS].encode(), MAX_COMMAND_LINE, "host_inputs_malformed")
            device = -1
            if platform == SIMULATED:
                device = _descriptor(environment[PLATFORM_DESCRIPTOR], "platform_descriptor")
            elif PLATFORM_DESCRIPTOR in environment:
                raise ConfigurationError("platform_descriptor", f"{platform} takes no simulated device")
            staples = environment.get(STAPLE_DESCRIPTOR)
            feed = None if staples is None else _descriptor(staples, "staple_descriptor")
            if set(members) | _FOLDERS | {"metrics_port"} != set(cls.__dataclass_fields__):
                raise ConfigurationError("host_inputs_malformed", "members are missing or unknown")
            texts = [members[name] for name in ("model", "staple", "address")]
            if not all(isinstance(text, str) and text and "\0" not in text for text in texts):
                raise ConfigurationError("host_inputs_malformed", "a path or the address is no text")
            folders = [members.get(name, "") for name in ("collateral", "gpu_collateral")]
            if not all(isinstance(folder, str) and "\0" not in folder for folder in folders):
                raise ConfigurationError("host_inputs_malformed", "a folder is no text")
            port, metrics_port = (
                _whole({"metrics_port": 0, **members}, name, 0, 65_535) for name in ("port", "metrics_port")
            )
        except KeyError as error:
            raise NodeError("host_inputs_missing", ExitCode.HOST_INPUT, str(error.args[0])) from None
        except ConfigurationError as error:
            raise NodeError(error.code, ExitCode.HOST_INPUT, error.detail) from None
        collateral, gpu_collateral = (Path(folder) if folder else None for folder in folders)
        model, staple = Path(members["model"]), Path(members["staple"])
        inputs = cls(model, staple, members["address"], port, collateral, gpu_collateral, metrics_port)
        return inputs, Inherited(device, feed)


@dataclass(frozen=True, slots=True)
class Inherited:
    """Descriptors that a node is given: to its platform's devices, and where fresh staples come from."""

    platform: int
    staples: int | None = None

    @property
    def descriptors(self) -> frozenset[int]:
        """All of them."""
        return frozenset({self.platform} if self.staples is None else {self.platform, self.staples})


def _descriptor(text: str, code: str) -> int:
    if not re.fullmatch(r"[0-9]{1,5}", text) or int(text) <= 2:
        raise ConfigurationError(code, "not the number of a descriptor")
    return int(text)


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


def _devices(platform: str, given: Mapping[str, Any]) -> Mapping[str, int]:
    known = _DEVICES[platform]
    for name in given:
        if name not in known:
            raise ConfigurationError("config_devices", f"'{name}' is nothing that {platform} has")
        if type(given[name]) is not int or given[name] not in known[name]:
            allowed = known[name]
            raise ConfigurationError("config_devices", f"'{name}' is not from {allowed[0]} to {allowed[-1]}")
    if platform == TPM and not given:
        raise ConfigurationError("config_devices", "'tpm_ak', the handle of the attestation key, is missing")
    return given


def _pieces(value: object) -> tuple[Piece, ...]:
    try:
        pieces = tuple(Piece(name) for name in value) if isinstance(value, list) else None
    except ValueError:
        pieces = None
    if pieces is None or len(set(pieces)) != len(pieces) or not TOLERABLE.issuperset(pieces):
        names = ", ".join(sorted(TOLERABLE))
        raise ConfigurationError("config_tolerate", f"a list of some of: {names}")
    return pieces
