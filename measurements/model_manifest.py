"""A model in the form of OpenSSF Model Signing v1: every file's digest, and one digest over them.

The digest is SHA-256 over the files' SHA-256 values, ordered by path, part by part; it is the subject of the
statements that model signers publish (predicate type ``https://model_signing/signature/v1.0``, method ``files``). A
release can bind it, and so refer to what somebody else signed.
"""

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Final

from .errors import Code, TransparencyError
from .process_image import MeasuredFile

PREDICATE_TYPE: Final = "https://model_signing/signature/v1.0"
MAX_FILES: Final = 65_536
_STAGE: Final = "model"
_SHA256: Final = re.compile("[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class ModelManifest:
    """The files of a model: (path, SHA-256) in the order of the digest. A model that is one file is called ``.``."""

    files: tuple[tuple[str, bytes], ...]

    @classmethod
    def of(cls, files: Iterable[MeasuredFile], *, single: bool = False) -> "ModelManifest":
        """The manifest of measured files; ``single`` where the model is one file rather than a folder."""
        return cls(_ordered(("." if single else file.path, file.sha256) for file in files))

    @classmethod
    def parse(
        cls, predicate: object, subjects: Sequence[tuple[str, str]]
    ) -> tuple["ModelManifest", "Ignored"]:
        """Read the predicate of a model signer's statement, and which paths it leaves out.

        Raises TransparencyError (STATEMENT_MALFORMED): another method or hash than files by SHA-256, a path that
        leaves the model, files out of order or twice, or a subject that is not the digest of the files.
        """
        if not isinstance(predicate, Mapping):
            raise _malformed("no predicate")
        how, resources = predicate.get("serialization"), predicate.get("resources")
        if not isinstance(how, Mapping) or (how.get("method"), how.get("hash_type")) != ("files", "sha256"):
            raise _malformed("only digests of whole files by SHA-256 are understood")
        if not isinstance(resources, list) or not 0 < len(resources) <= MAX_FILES:
            raise _malformed(f"a model has 1 to {MAX_FILES} files")
        files = tuple(_resource(resource) for resource in resources)
        if files != _ordered(files) or len({path for path, _ in files}) != len(files):
            raise _malformed("files out of order, or twice")
        manifest = cls(files)
        if [digest for _, digest in subjects] != [manifest.digest.hex()]:
            raise _malformed("the subject is not the digest of the files")
        ignored = how.get("ignore_paths", [])
        if not isinstance(ignored, list) or not all(isinstance(path, str) for path in ignored):
            raise _malformed("ignore_paths is a list of paths")
        return manifest, Ignored(tuple(_inside(path) for path in ignored))

    @property
    def digest(self) -> bytes:
        """SHA-256 over the files' digests."""
        return hashlib.sha256(b"".join(digest for _, digest in self.files)).digest()

    def require_same(self, signed: "ModelManifest", ignored: "Ignored") -> None:
        """Compare these files with what was signed, but for what the signer left out.

        Raises TransparencyError (MEASUREMENT_MISMATCH) naming the first file that differs.
        """
        here = {path: digest for path, digest in self.files if not ignored.covers(path)}
        there = dict(signed.files)
        for path in sorted(here.keys() | there.keys()):
            if here.get(path) != there.get(path):
                raise TransparencyError(
                    Code.MEASUREMENT_MISMATCH,
                    f"the model differs from what was signed: {path[:200]!a}",
                    stage=_STAGE,
                    expected=_shown(there.get(path)),
                    found=_shown(here.get(path)),
                )


@dataclass(frozen=True, slots=True)
class Ignored:
    """Paths, relative to the model, that a signer left out with all that lies below them."""

    paths: tuple[PurePosixPath, ...] = ()

    def covers(self, path: str) -> bool:
        """Whether ``path`` is one of them or lies below one."""
        parts = PurePosixPath(path)
        return any(parts == ignored or ignored in parts.parents for ignored in self.paths if ignored.parts)


def _ordered(files: Iterable[tuple[str, bytes]]) -> tuple[tuple[str, bytes], ...]:
    return tuple(sorted(files, key=lambda file: PurePosixPath(file[0]).parts))


def _resource(value: object) -> tuple[str, bytes]:
    if not isinstance(value, Mapping) or set(value) != {"name", "algorithm", "digest"}:
        raise _malformed("a file has name, algorithm and digest")
    name, digest = value["name"], value["digest"]
    if not isinstance(name, str) or str(_inside(name)) != name:
        raise _malformed("a file's name is a plain relative path")
    if value["algorithm"] != "sha256" or not isinstance(digest, str) or not _SHA256.fullmatch(digest):
        raise _malformed("a file's digest is SHA-256 in lowercase hex")
    return name, bytes.fromhex(digest)


def _inside(path: str) -> PurePosixPath:
    parsed = PurePosixPath(path)
    if parsed.is_absolute() or ".." in parsed.parts or "\0" in path:
        raise _malformed("a path leaves the model")
    return parsed


def _shown(digest: bytes | None) -> str:
    return "no such file" if digest is None else digest.hex()


def _malformed(why: str) -> TransparencyError:
    return TransparencyError(Code.STATEMENT_MALFORMED, f"model signature: {why}", stage=_STAGE)
