"""A log over HTTP: the format's resources with their types and lifetimes, and no other byte of the folder."""

import gzip
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from log_programs import ask, cloister, running

from measurements.checkpoint import open_checkpoint
from measurements.log import TileLog
from measurements.log_server import log_application, resource_file
from measurements.signing_key import SigningKey
from measurements.tiles import parse_tile_path, tile_path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    log = TileLog(tmp_path / "log", SigningKey.generate("log.example/served"), ())
    log.create()
    with log.exclusive():
        log.append([b"entry %d" % number for number in range(258)])
    (tmp_path / "log" / "keys").mkdir()
    (tmp_path / "log" / "keys" / "log.key").write_text("secret")
    (tmp_path / "log" / "public" / "note.txt").write_text("not a resource of the format")
    (tmp_path / "log" / "public" / "tile" / "0" / "notes").write_text("neither")
    return tmp_path / "log"


def test_every_resource_with_its_type_and_lifetime(folder: Path) -> None:
    application = log_application(folder / "public")
    served = 0
    for path in (folder / "public").rglob("*"):
        name = path.relative_to(folder / "public").as_posix()
        if not path.is_file() or path.name in ("note.txt", "notes"):
            continue
        answer = ask(application, "GET", f"/{name}")
        assert (answer.status, answer.body) == (200, path.read_bytes()), name
        if name == "checkpoint":
            assert answer.headers["content-type"] == "text/plain; charset=utf-8"
            assert answer.headers["cache-control"] == "public, max-age=2, must-revalidate"
        else:
            assert answer.headers["content-type"] == "application/octet-stream"
            assert answer.headers["cache-control"] == "public, max-age=31536000, immutable"
        served += 1
    assert served == 6  # checkpoint; two bundles, two tiles of level 0, one of level 1


def test_sigstore_bundles_lie_beside_the_log(folder: Path) -> None:
    (folder / "public" / "sigstore").mkdir()
    name = f"sigstore/{'ab' * 32}.json"
    (folder / "public" / name).write_bytes(b"{}")
    (folder / "public" / "sigstore" / "other.json").write_bytes(b"{}")
    application = log_application(folder / "public")
    answer = ask(application, "GET", f"/{name}")
    assert (answer.status, answer.body, answer.headers["cache-control"]) == (
        200,
        b"{}",
        "public, max-age=3600",
    )
    for path in ("/sigstore/other.json", f"/sigstore/{'AB' * 32}.json", f"/{name}/", "/sigstore/"):
        assert ask(application, "GET", path).status == 404


def test_entry_bundles_are_compressed_where_that_is_wanted(folder: Path) -> None:
    application = log_application(folder / "public")
    plain = ask(application, "GET", "/tile/entries/000")
    packed = ask(application, "GET", "/tile/entries/000", headers={"accept-encoding": "br, gzip;q=0.5"})
    assert packed.headers["content-encoding"] == "gzip"
    assert plain.headers["vary"] == packed.headers["vary"] == "accept-encoding"
    assert gzip.decompress(packed.body) == plain.body
    for unwanted in ("gzip;q=0", "br", "gzip ; q=0.0", ""):
        answer = ask(application, "GET", "/tile/entries/000", headers={"accept-encoding": unwanted})
        assert "content-encoding" not in answer.headers
    tile = ask(application, "GET", "/tile/0/000", headers={"accept-encoding": "gzip"})
    assert "content-encoding" not in tile.headers


@pytest.mark.parametrize(
    "path",
    ["/", "/note.txt", "/tile", "/tile/0", "/tile/0/notes", "/tile/0/000/", "/tile/00/000", "/tile/64/000",
     "/tile/0/0000", "/tile/0/0", "/tile/0/x000/000", "/tile/0/000.p/0", "/tile/0/000.p/256", "/tile/0/000.p/02",
     "/tile/0/001.p/300", "/tile/-1/000", "/tile/0/٠٠٠", "/checkpoint/", "//checkpoint", "/tile/entries/000.p/",
     "/../keys/log.key", "/tile/../../keys/log.key", "/tile/0/../../checkpoint", "/..%2fkeys/log.key",
     "/tile/0/000\x00", "/keys/log.key", "/./checkpoint", "/CHECKPOINT"],
)  # fmt: skip
def test_nothing_else_of_the_folder(folder: Path, path: str) -> None:
    answer = ask(log_application(folder / "public"), "GET", path, raw_path=b"/x")
    assert (answer.status, answer.body) == (404, b"")
    assert answer.headers["cache-control"] == "no-store"


def test_other_methods(folder: Path) -> None:
    application = log_application(folder / "public")
    assert ask(application, "HEAD", "/checkpoint").status == 200
    for method in ("POST", "PUT", "DELETE"):
        assert ask(application, method, "/checkpoint").status == 405


@given(level=st.none() | st.integers(0, 63), index=st.integers(0, 10**18), width=st.integers(1, 256))
def test_a_tiles_name_reads_back(level: int | None, index: int, width: int) -> None:
    path = tile_path(level, index, width)
    assert parse_tile_path(path) == (level, index, width)
    assert resource_file(path) == path


@given(path=st.text(alphabet="tilenrscp/.x0123456789-", max_size=40))
def test_any_path_names_a_resource_or_nothing(path: str) -> None:
    named = resource_file(path)
    assert named is None or named == path == "checkpoint" or tile_path(*(parse_tile_path(path) or ())) == path


def test_the_program_over_a_socket(tmp_path: Path) -> None:
    import httpx2

    assert cloister("log", "serve", "--log", str(tmp_path)).returncode == 1
    made = cloister("log", "init", str(tmp_path / "log"), "--json")
    assert made.returncode == 0
    log_key = tmp_path / "log" / "keys" / "log.key"
    with running("log", "serve", "--log", str(tmp_path / "log")) as url, httpx2.Client() as client:
        note = client.get(f"{url}/checkpoint")
        assert note.headers["content-type"] == "text/plain; charset=utf-8"
        assert open_checkpoint(note.content, (SigningKey.load(log_key).public,)).checkpoint.size == 0
        assert client.get(f"{url}/%2e%2e/keys/log.key").status_code == 404
