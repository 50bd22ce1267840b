"""``cloister image``: exit codes, JSON, and the path that is named."""

import json
from pathlib import Path

import pytest
import typer

from images import commands, process_image
from images.errors import ClosureError
from images.manifest import ImageManifest, scan


def run(*arguments: str) -> int:
    app = typer.Typer()
    app.callback()(lambda: None)
    commands.register(app)
    return int(app(["image", *arguments], standalone_mode=False))


@pytest.fixture
def image(tmp_path: Path) -> Path:
    (tmp_path / "i" / "root" / "app").mkdir(parents=True)
    (tmp_path / "i" / "root" / "app" / "start.py").write_text("run()")
    described = ImageManifest("3.11.7", scan(tmp_path / "i" / "root"))
    (tmp_path / "i" / "image.json").write_bytes(described.encode())
    return tmp_path / "i"


def test_verify_says_verified_and_refused(image: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("verify", str(image), "--json") == 0
    assert json.loads(capsys.readouterr().out)["verdict"] == "verified"
    (image / "root" / "app" / "start.py").write_text("Run()")
    assert run("verify", str(image), "--json") == 3
    refused = json.loads(capsys.readouterr().out)
    assert refused == {"verdict": "refused", "code": "file_changed", "path": "app/start.py"}


def test_what_a_process_image_has_not_is_refused_by_name(
    image: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nobody who asks for a second build may read 'verified' without one."""
    assert run("verify", str(image), "--rebuild") == 1
    assert "verified" not in capsys.readouterr().out
    assert run("audit", str(image)) == 1
    assert "is a process image" in capsys.readouterr().err


def test_no_image_is_an_error_of_use(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("verify", str(tmp_path)) == 1
    assert "manifest_missing" in capsys.readouterr().err


def test_an_unknown_recipe_is_an_error_of_use_and_leaves_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("build", "no-such-recipe", "-o", str(tmp_path / "x")) == 1
    assert "recipe_unknown" in capsys.readouterr().err
    assert not (tmp_path / "x").exists()


def test_a_virtual_machine_takes_a_model_and_a_configuration(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("build", "cpu-dev", "-o", str(tmp_path / "x")) == 1
    assert "--model and --config" in capsys.readouterr().err


def test_a_folder_without_an_image_does_not_boot(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    staple = tmp_path / "staple.json"
    staple.write_text("{}")
    assert run("boot", str(tmp_path), "--staple", str(staple), "--accelerator", "tcg") == 1
    assert "manifest_missing" in capsys.readouterr().err


def test_a_failed_build_names_its_reason(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing() -> process_image.Contents:
        raise ClosureError("not_installed", "torch, which cloister needs, is not installed")

    monkeypatch.setattr(process_image, "node_contents", missing)
    assert run("build", "process", "-o", str(tmp_path / "x")) == 1
    assert "not_installed" in capsys.readouterr().err
