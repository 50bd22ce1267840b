"""Which third-party files go in: requirements, markers, records, and what is refused."""

import base64
import hashlib
from collections.abc import Callable
from importlib.metadata import distribution
from pathlib import Path

import pytest

from images.closure import distribution_files, package_files, requirements_of, resolve
from images.errors import ClosureError

Install = Callable[..., None]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Install:
    """Lay an installed distribution out in a site folder of its own, as an installer would."""
    monkeypatch.syspath_prepend(tmp_path)

    def lay_out(
        name: str,
        version: str = "1.0",
        requires: tuple[str, ...] = (),
        extras: tuple[str, ...] = (),
        files: tuple[str, ...] = (),
        record: bool = True,
    ) -> None:
        info = tmp_path / f"{name.replace('-', '_')}-{version}.dist-info"
        info.mkdir()
        lines = ["Metadata-Version: 2.1", f"Name: {name}", f"Version: {version}"]
        lines += [f"Requires-Dist: {r}" for r in requires] + [f"Provides-Extra: {e}" for e in extras]
        (info / "METADATA").write_text("\n".join(lines) + "\n")
        rows = [f"{info.name}/METADATA,,", f"{info.name}/RECORD,,", f"../../bin/{name},,"]
        for file in files:
            path = tmp_path / file
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(f"# {file}\n")
            digest = (
                base64.urlsafe_b64encode(hashlib.sha256(path.read_bytes()).digest()).rstrip(b"=").decode()
            )
            rows.append(f"{file},sha256={digest},{path.stat().st_size}")
        if record:
            (info / "RECORD").write_text("\n".join(rows) + "\n")

    return lay_out


def names(*roots: str, **options: dict[str, str]) -> list[str]:
    return [found.metadata["Name"] for found in resolve(roots, **options)]


def test_requirements_are_followed_by_their_markers(install: Install) -> None:
    install(
        "zz-a",
        requires=(
            "zz-b>=1",
            'zz-windows; sys_platform == "win32"',
            'zz-fast; extra == "fast"',
            'zz-old; python_version < "3"',
        ),
        extras=("fast",),
    )
    install("zz-b", requires=("zz-a",))  # A circle ends.
    install("zz-fast")
    assert names("zz-a") == ["zz-a", "zz-b"]
    assert names("zz-a[fast]") == ["zz-a", "zz-b", "zz-fast"]


def test_left_out_distributions_and_what_only_they_need_stay_out(install: Install) -> None:
    install("zz-a", requires=("zz-hub", "zz-b"))
    install("zz-b")
    assert names("zz-a", left_out={"zz-hub": "downloads"}) == ["zz-a", "zz-b"]


def test_an_extra_that_names_its_own_project_is_unfolded(install: Install) -> None:
    install(
        "zz-us",
        requires=(
            "zz-base",
            'zz-us[relay]; extra == "runtime"',
            'zz-web>=2; extra == "relay"',
            'zz-dev; extra == "dev"',
        ),
        extras=("runtime", "relay", "dev"),
    )
    assert set(requirements_of("zz-us", "runtime")) == {"zz-base", "zz-web>=2"}
    with pytest.raises(ClosureError) as caught:
        requirements_of("zz-us", "gpu")
    assert caught.value.code == "extra_unknown"


def test_a_missing_or_wrong_version_is_named(install: Install) -> None:
    install("zz-a", requires=("zz-b>=2",))
    with pytest.raises(ClosureError, match="zz-b, which zz-a needs") as missing:
        names("zz-a")
    assert missing.value.code == "not_installed"
    install("zz-b", version="1.9")
    with pytest.raises(ClosureError) as unmet:
        names("zz-a")
    assert (unmet.value.code, unmet.value.expected, unmet.value.found) == ("requirement_unmet", ">=2", "1.9")


def test_only_what_a_node_needs_of_a_record(install: Install) -> None:
    wanted = ("zz/__init__.py", "zz/core.so", "zz/data.json", "zz/testing.py")
    unwanted = ("zz/tests/test_a.py", "zz/a.h", "zz/a.a", "zz/__pycache__/a.pyc", "zz/a.pyi", "hook.pth")
    install("zz-a", files=wanted + unwanted)
    found = distribution_files(distribution("zz-a"))
    assert {file.target for file in found} == {f"site/{p}" for p in (*wanted, "zz_a-1.0.dist-info/METADATA")}
    module = next(file for file in found if file.target == "site/zz/__init__.py")
    assert module.sha256 == hashlib.sha256(module.source.read_bytes()).hexdigest()


def test_without_a_record_or_as_an_editable_install_it_is_refused(install: Install) -> None:
    install("zz-a", record=False)
    install("zz-b", files=("__editable__.zz_b.pth",))
    for name, code in (("zz-a", "no_record"), ("zz-b", "editable")):
        with pytest.raises(ClosureError) as caught:
            distribution_files(distribution(name))
        assert caught.value.code == code


def test_our_packages_come_without_command_line_and_leftovers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("__init__.py", "core.py", "commands.py", "note.txt", ".cache/x.py", "__pycache__/core.pyc"):
        path = tmp_path / "zz_ours" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    monkeypatch.syspath_prepend(tmp_path)
    found = [file.target for file in package_files(["zz_ours"])]
    assert found == ["app/zz_ours/__init__.py", "app/zz_ours/core.py"]
    with pytest.raises(ClosureError):
        package_files(["zz_nowhere"])
