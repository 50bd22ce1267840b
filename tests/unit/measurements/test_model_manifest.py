"""A model's digest as model signers state it, and their signatures held against the files."""

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import typer
from hypothesis import given, settings
from hypothesis import strategies as st
from mini_sigstore import SUBJECT, MiniSigstore

from measurements.errors import Code, TransparencyError
from measurements.model_manifest import PREDICATE_TYPE, Ignored, ModelManifest
from measurements.process_image import hash_volume
from measurements.sigstore.commands import register

# What model-signing 1.1.1 states for these files: parts of a path are compared, so "sub/a" comes before "sub-b/x".
FILES = {"sub/a": b"one", "sub-b/x": b"two", "sub.c": b"three", "é": b"four"}
FOLDER_DIGEST = "d8828a31d4d996abfd16606e7f04057867e2925d9f9693b59c4ac26c98d82ffe"
FILE_DIGEST = "1dbfa84faa926d00a27e7578746a13ad3063e0e9bde3b25015e545ad80f5f703"


@pytest.fixture
def model(tmp_path: Path) -> Path:
    for name, data in FILES.items():
        path = tmp_path / "model" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return tmp_path / "model"


def here(model: Path) -> ModelManifest:
    return ModelManifest.of(hash_volume(model), single=model.is_file())


def predicate(manifest: ModelManifest, ignored: list[str] | None = None) -> dict[str, Any]:
    return {
        "resources": [
            {"algorithm": "sha256", "name": name, "digest": digest.hex()} for name, digest in manifest.files
        ],
        "serialization": {
            "hash_type": "sha256",
            "ignore_paths": ignored or [],
            "method": "files",
            "allow_symlinks": False,
        },
    }


def test_the_digest_is_the_signers(model: Path) -> None:
    assert here(model).digest.hex() == FOLDER_DIGEST
    assert here(model / "sub.c").digest.hex() == FILE_DIGEST
    manifest = here(model)
    parsed, ignored = ModelManifest.parse(predicate(manifest), [("model", FOLDER_DIGEST)])
    assert (parsed, ignored) == (manifest, Ignored())
    manifest.require_same(parsed, ignored)


def test_files_that_are_more_less_or_other(model: Path) -> None:
    signed = here(model)
    for change in (
        lambda: (model / "more").write_bytes(b""),
        lambda: (model / "more").rename(model / "renamed"),
        lambda: (model / "renamed").unlink() or (model / "sub.c").write_bytes(b"threE"),
        lambda: (model / "sub.c").unlink(),
    ):
        change()
        with pytest.raises(TransparencyError) as caught:
            here(model).require_same(signed, Ignored())
        assert caught.value.code is Code.MEASUREMENT_MISMATCH
    (model / "sub.c").write_bytes(b"three")
    here(model).require_same(signed, Ignored())


def test_what_the_signer_left_out(model: Path) -> None:
    signed = here(model)
    (model / ".git").mkdir()
    (model / ".git" / "HEAD").write_bytes(b"x")
    (model / ".gitignore").write_bytes(b"x")
    (model / ".github-not").write_bytes(b"x")
    parsed, ignored = ModelManifest.parse(
        predicate(signed, [".git", ".gitignore", "."]), [("model", FOLDER_DIGEST)]
    )
    with pytest.raises(TransparencyError) as caught:
        here(model).require_same(parsed, ignored)
    assert ".github-not" in str(caught.value)
    (model / ".github-not").unlink()
    here(model).require_same(parsed, ignored)


@pytest.mark.parametrize(
    "change",
    [
        lambda p: p["serialization"].update(method="shards"),
        lambda p: p["serialization"].update(hash_type="blake3"),
        lambda p: p["serialization"].update(ignore_paths=["../x"]),
        lambda p: p["serialization"].update(ignore_paths="x"),
        lambda p: p.update(resources=[]),
        lambda p: p["resources"].reverse(),
        lambda p: p["resources"].append(p["resources"][-1]),
        lambda p: p["resources"].pop(),
        lambda p: p["resources"][0].update(name="../sub/a"),
        lambda p: p["resources"][0].update(name="/sub/a"),
        lambda p: p["resources"][0].update(name="sub//a"),
        lambda p: p["resources"][0].update(algorithm="sha1"),
        lambda p: p["resources"][0].update(digest="00"),
        lambda p: p["resources"][0].update(more=1),
    ],
)
def test_statements_that_could_mean_something_else(model: Path, change: Any) -> None:
    value = predicate(here(model))
    change(value)
    with pytest.raises(TransparencyError) as caught:
        ModelManifest.parse(value, [("model", FOLDER_DIGEST)])
    assert caught.value.code is Code.STATEMENT_MALFORMED


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=8,
)
GOOD = predicate(ModelManifest(((".", bytes(32)),)))


@settings(max_examples=150)
@given(value=JSON, name=st.sampled_from(["resources", "serialization"]))
def test_any_value_anywhere(value: Any, name: str) -> None:
    for candidate in (value, {**GOOD, name: value}, {**GOOD, name: [value]}):
        with suppress(TransparencyError):
            ModelManifest.parse(candidate, [("m", "00")])


def test_a_signed_model_on_the_command_line(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    instance = MiniSigstore(1)
    statement = {
        "_type": "https://in-toto.io/Statement/v1",
        "subject": [{"name": "model", "digest": {"sha256": FOLDER_DIGEST}}],
        "predicateType": PREDICATE_TYPE,
        "predicate": predicate(here(model)),
    }
    (tmp_path / "model.sig").write_text(json.dumps(instance.sign(json.dumps(statement).encode())))
    (tmp_path / "root.json").write_bytes(instance.root())
    app = typer.Typer()
    app.callback()(lambda: None)
    register(app)
    arguments = ["attestation", str(tmp_path / "model.sig"), "--model", str(model), "--subject", SUBJECT]
    arguments += ["--root", str(tmp_path / "root.json"), "--at", "2026-06-01T12:00:00Z"]
    assert app(arguments, standalone_mode=False) == 0
    assert PREDICATE_TYPE in capsys.readouterr().out
    (model / "sub" / "a").write_bytes(b"onE")
    assert app(arguments, standalone_mode=False) == 3
    assert "sub/a" in capsys.readouterr().err
