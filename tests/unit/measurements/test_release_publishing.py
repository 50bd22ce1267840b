"""From an image folder to a staple that a client accepts, by the library and by the command line."""

import json
import subprocess
import sys
import tomllib
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import typer

from measurements.commands import register
from measurements.errors import Code, ImageError, TransparencyError
from measurements.image_release import GpuFacts, draft_release, measure_image
from measurements.policy import TransparencyPolicy, policy_table
from measurements.process_image import MeasuredFile, hash_volume, launch_digest
from measurements.publish import Published, ReleaseDraft, ReleaseLog, create_log
from measurements.results import Appraisal
from measurements.rollback import FileMemory, RollbackMemory, VolatileMemory
from measurements.signing_key import SigningKey
from measurements.sigstore.identity import IdentityRule
from measurements.sigstore.policy import SigstorePolicy
from measurements.staple import Staple, check_staple
from measurements.statement import Subject, canonical
from measurements.verified_release import VerifiedRelease

START = datetime(2026, 6, 1, 12, tzinfo=UTC)


class Operator:
    """A log, a signer and a clock."""

    def __init__(self, folder: Path) -> None:
        self.at = START
        self.log: ReleaseLog = create_log(
            folder, origin="log.example/r", witness="witness.example", now=lambda: self.at
        )
        self.signer = SigningKey.generate("releases.example")
        self.policy = TransparencyPolicy.from_table(
            tomllib.loads(
                policy_table(
                    log=self.log.tiles.key,
                    witnesses=self.log.tiles.witnesses,
                    signers=[self.signer.public],
                    channel="prod",
                )
            )["transparency"]
        )

    def publish(self, number: int, **options: Any) -> Published:
        return self.log.publish(draft(number), [self.signer], **options)

    def check(self, staple: Staple, memory: RollbackMemory | None = None) -> Appraisal[VerifiedRelease]:
        members = {name: getattr(staple, name) for name in Staple.__dataclass_fields__}
        return check_staple(**members, policy=self.policy, at=self.at, memory=memory or VolatileMemory())


def draft(number: int) -> ReleaseDraft:
    return ReleaseDraft(
        "acme/node",
        f"1.{number}",
        "prod",
        (Subject("image", f"{number:064x}"),),
        (
            {"tee": "sev-snp", "launchDigest": f"{number:096x}"},
            GpuFacts("HOPPER", ("550.1", "550.2"), ("96.00",)).element(),
        ),
    )


def refused(appraisal: Appraisal[VerifiedRelease]) -> str:
    assert appraisal.value is None
    assert appraisal.error is not None
    return appraisal.error.code


@pytest.fixture
def operator(tmp_path: Path) -> Operator:
    return Operator(tmp_path / "log")


def test_a_published_release_is_accepted(operator: Operator, tmp_path: Path) -> None:
    done = operator.publish(1)
    staple = Staple.parse(done.staple.encode())
    assert staple == done.staple
    appraisal = operator.check(staple)
    assert [(row.id, row.outcome.value) for row in appraisal.rows] == [
        ("log.signature", "pass"),
        ("log.witness", "pass"),
        ("log.signers", "not required"),
        ("log.status", "pass"),
        ("log.release", "pass"),
        ("log.active", "pass"),
        ("log.sigstore", "not required"),
        ("log.rollback", "pass"),
    ]
    release = appraisal.require()
    assert (release.name, release.version, release.index, release.status_sequence) == (
        "acme/node",
        "1.1",
        0,
        1,
    )
    assert release.leaf_hash == done.release.leaf_hash
    assert release.status_expires_at == START + timedelta(hours=48)
    assert release.match_cpu("sev-snp", {"launchDigest": f"{1:096X}"})["tee"] == "sev-snp"
    assert release.match_gpu(arch="HOPPER", driver="550.2", vbios="96.00")["arch"] == "HOPPER"
    stored = tmp_path / "log" / "staples" / f"{release.leaf_hash.hex()}.json"
    assert stored.read_bytes() == staple.encode()


@pytest.mark.parametrize(
    ("arch", "driver", "vbios", "mode"),
    [("HOPPER", "550.3", "96.00", "on"), ("BLACKWELL", "550.1", "96.00", "on"), ("HOPPER", "550.1", "96", "on"),
     ("HOPPER", "550.1", "96.00", "devtools")],
)  # fmt: skip
def test_another_gpu_does_not_match(
    operator: Operator, arch: str, driver: str, vbios: str, mode: str
) -> None:
    release = operator.check(operator.publish(1).staple).require()
    with pytest.raises(TransparencyError) as caught:
        release.match_gpu(arch=arch, driver=driver, vbios=vbios, mode=mode)
    assert caught.value.code is Code.MEASUREMENT_MISMATCH


def test_an_element_with_tcb_floors_needs_a_tcb(operator: Operator) -> None:
    release = operator.check(operator.publish(1).staple).require()
    floor = replace(release, measurements=({**release.measurements[0], "minTcb": {"snp": 8}},))
    registers = {"launchDigest": f"{1:096x}"}
    assert floor.match_cpu("sev-snp", registers, {"snp": 8})
    for tcb in (None, {}, {"snp": 7}):
        with pytest.raises(TransparencyError):
            floor.match_cpu("sev-snp", registers, tcb)


def test_the_same_image_again_renews_its_status(operator: Operator) -> None:
    first = operator.publish(1)
    operator.at += timedelta(hours=47)
    again = operator.publish(1)
    assert again.renewed
    assert again.release == first.release
    assert again.status.status.sequence == 2
    operator.at += timedelta(hours=2)
    assert refused(operator.check(first.staple)) == Code.WITNESS_STALE
    operator.check(again.staple).require()


def test_a_rotation_of_signers_goes_on_with_the_sequences(operator: Operator) -> None:
    memory = VolatileMemory()
    operator.check(operator.publish(1).staple, memory).require()
    old, operator.signer = operator.signer, SigningKey.generate("releases.example/2")
    done = operator.publish(2, formerly=[old.public])
    assert (done.release.release.sequence, done.status.status.sequence) == (2, 2)
    assert done.release.release.previous
    assert refused(operator.check(done.staple, memory)) == Code.IDENTITY_MISMATCH
    operator.policy = replace(operator.policy, signers=(operator.signer.public,))
    assert operator.check(done.staple, memory).require().sequence == 2


@pytest.mark.parametrize("hours", [0, 23, 24, 25])
def test_a_release_must_have_been_listed_for_a_while(operator: Operator, hours: int) -> None:
    """The first proof is kept, so that its cosignatures grow old while the status stays fresh."""
    operator.policy = replace(operator.policy, soak_s=24 * 3600)
    assert refused(operator.check(operator.publish(1).staple)) == Code.TIME_INVALID
    operator.at += timedelta(hours=hours)
    found = operator.check(operator.publish(1).staple)
    if hours < 24:
        assert refused(found) == Code.TIME_INVALID
        assert next(row.id for row in found.rows if row.outcome.value == "fail") == "log.witness"
    else:
        assert found.require().version == "1.1"


def test_a_soak_needs_witnesses(operator: Operator) -> None:
    table = {
        "log": str(operator.log.tiles.key),
        "witnesses": [],
        "quorum": 0,
        "signers": [str(operator.signer.public)],
        "channel": "prod",
    }
    TransparencyPolicy.from_table(table)
    with pytest.raises(TransparencyError) as caught:
        TransparencyPolicy.from_table({**table, "soak_s": 3600})
    assert caught.value.code is Code.TRUST_ROOT_INVALID


def test_the_release_before_stays_active_and_the_one_before_that_does_not(operator: Operator) -> None:
    published = [operator.publish(number) for number in (1, 2, 3)]
    assert [entry.release.release.sequence for entry in published] == [1, 2, 3]
    assert published[2].release.release.previous == published[1].release.leaf_hash.hex()
    status = published[2].status.status
    assert status.active == tuple(entry.release.leaf_hash.hex() for entry in published[1:])
    assert status.min_release_sequence == 2
    alone = operator.publish(4, keep=1)
    assert alone.status.status.active == (alone.release.leaf_hash.hex(),)


def test_a_release_near_its_end_is_logged_anew(operator: Operator) -> None:
    first = operator.publish(1)
    operator.at += timedelta(days=46)
    assert not operator.publish(1).renewed
    assert operator.publish(1).release.leaf_hash != first.release.leaf_hash


def test_a_revoked_release_is_refused_with_the_new_status(operator: Operator, tmp_path: Path) -> None:
    bad, good = operator.publish(1), operator.publish(2)
    memory = FileMemory(tmp_path / "memory" / "seen.json")
    operator.check(good.staple, memory).require()
    done = operator.log.revoke(bad.release.leaf_hash, "prod", "a hole", [operator.signer])
    assert done.status.revoked[0].reason == "a hole"
    folder = tmp_path / "log" / "staples"
    assert [path.name for path in folder.iterdir()] == [f"{good.release.leaf_hash.hex()}.json"]
    newest = Staple.parse(next(folder.iterdir()).read_bytes())
    operator.check(newest, memory).require()
    # The last status before the revocation is still in its time: only who saw the newer one knows.
    operator.check(bad.staple).require()
    assert refused(operator.check(bad.staple, memory)) == Code.ROLLBACK
    combined = replace(bad.staple, status_proof=newest.status_proof, status_leaf=newest.status_leaf)
    assert refused(operator.check(replace(combined, checkpoint=newest.checkpoint))) == Code.RELEASE_REVOKED
    listing = operator.log.listing("prod", [operator.signer.public])
    assert (len(listing.releases), len(listing.statuses), listing.ignored) == (2, 3, 0)


def test_nothing_is_remembered_of_a_refused_node(operator: Operator) -> None:
    first, second = operator.publish(1), operator.publish(2)
    memory = VolatileMemory()
    broken = replace(second.staple, release_leaf=first.staple.release_leaf)
    assert refused(operator.check(broken, memory)) == Code.INCLUSION_INVALID
    operator.check(first.staple, memory).require()


SIGSTORE = SigstorePolicy(IdentityRule(issuer="https://issuer.example", subject="somebody"))


def test_a_policy_that_wants_more_than_there_is_fails_closed(operator: Operator) -> None:
    staple = operator.publish(1).staple
    good = operator.policy
    for changes, code in (
        ({"profile": "tlog+sigstore", "sigstore": SIGSTORE}, Code.PROOF_MISSING),
        ({"profile": "sigstore-only", "sigstore": SIGSTORE}, Code.PROOF_MISSING),
        ({"not_after": START}, Code.TRUST_ROOT_VALIDITY),
        ({"channel": "beta"}, Code.IDENTITY_MISMATCH),
        ({"threshold": 2}, Code.IDENTITY_MISMATCH),
    ):
        operator.policy = replace(good, **changes)
        assert refused(operator.check(staple)) == code, changes
    operator.policy = good
    operator.check(staple).require()


@pytest.mark.parametrize("key", ["log", "witnesses", "quorum", "signers", "channel"])
def test_nothing_of_a_policy_may_be_left_out(operator: Operator, key: str) -> None:
    table: dict[str, Any] = {
        "log": str(operator.log.tiles.key),
        "witnesses": [str(witness) for witness in operator.log.tiles.witnesses],
        "quorum": 1,
        "signers": [str(operator.signer.public)],
        "channel": "prod",
    }
    TransparencyPolicy.from_table(table)
    del table[key]
    with pytest.raises(TransparencyError) as caught:
        TransparencyPolicy.from_table(table)
    assert caught.value.code is Code.TRUST_ROOT_INVALID


def test_a_policy_may_carry_a_log_policy_file(operator: Operator) -> None:
    text = f"log {operator.log.tiles.key}\nwitness w {operator.log.tiles.witnesses[0]}\nquorum w\n"
    table = {"tlog_policy": text, "signers": [str(operator.signer.public)], "channel": "prod"}
    operator.policy = TransparencyPolicy.from_table(table)
    operator.check(operator.publish(1).staple).require()
    with pytest.raises(TransparencyError):
        TransparencyPolicy.from_table({**table, "quorum": 1})


def test_one_key_may_not_play_two_parts(operator: Operator) -> None:
    with pytest.raises(TransparencyError):
        policy_table(
            log=operator.log.tiles.key,
            witnesses=operator.log.tiles.witnesses,
            signers=[operator.log.tiles.key],
            channel="prod",
        )


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """An image folder of two files and a model of one."""
    root = tmp_path / "image" / "root"
    (root / "app").mkdir(parents=True)
    (root / "app" / "start.py").write_text("print('a node')\n")
    (root / "run").write_bytes(b"\x7fELF")
    (root / "run").chmod(0o755)
    (tmp_path / "model.gguf").write_bytes(b"GGUF" * 1000)
    files = [
        {"path": file.path, "exec": file.executable, "size": file.size, "sha256": file.sha256.hex()}
        for file in hash_volume(root)
    ]
    (tmp_path / "image" / "image.json").write_bytes(canonical({"v": 1, "files": files}))
    return tmp_path / "image"


def test_the_prediction_is_what_the_platform_measures(image: Path, tmp_path: Path) -> None:
    from attestation.simulated.launch import measure_launch

    model = tmp_path / "model.gguf"
    measured = measure_launch(b"--config x", {"image": image / "root", "model": model})
    assert measure_image(image, model=model, cmdline=b"--config x").launch_digest == measured
    folder = tmp_path / "weights"
    (folder / "sub").mkdir(parents=True)
    for name in ("sub/a", "sub-b", "é", "sub.c"):
        (folder / name).write_text(name)
    measured = measure_launch(b"", {"model": folder, "image": image / "root"})
    assert measure_image(image, model=folder).launch_digest == measured
    (image / "root" / "app" / "start.py").write_text("print('another')\n")
    assert measure_launch(b"", {"model": folder, "image": image / "root"}) != measured


def test_every_fact_of_a_launch_changes_its_digest() -> None:
    file = MeasuredFile("a", False, 1, bytes(32))
    base = launch_digest(b"", {"image": [file]})
    others = [
        launch_digest(b"x", {"image": [file]}),
        launch_digest(b"", {"image": [replace(file, path="b")]}),
        launch_digest(b"", {"image": [replace(file, executable=True)]}),
        launch_digest(b"", {"image": [replace(file, sha256=b"\1" * 32)]}),
        launch_digest(b"", {"other": [file]}),
        launch_digest(b"", {"image": [file, replace(file, path="b")]}),
        launch_digest(b"", {"image": [file], "model": []}),
    ]
    assert len({base, *others[:-1]}) == len(others)
    assert others[-1] == base  # an empty volume adds nothing, as it runs nothing


def test_links_and_special_files_cannot_be_measured(tmp_path: Path) -> None:
    (tmp_path / "v").mkdir()
    (tmp_path / "file").write_text("x")
    (tmp_path / "v" / "link").symlink_to(tmp_path / "file")
    with pytest.raises(ImageError):
        hash_volume(tmp_path / "v")
    with pytest.raises(ImageError):
        hash_volume(tmp_path / "v" / "link")
    with pytest.raises(ImageError):
        hash_volume(tmp_path / "nothing")


def run(*arguments: str) -> int:
    app = typer.Typer()
    app.callback()(lambda: None)
    register(app)
    status: int = app(list(arguments), standalone_mode=False)
    return status


def test_the_command_line_from_nothing_to_a_staple(
    image: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log, signer, staple, policy = (
        str(tmp_path / name) for name in ("L", "s.key", "out/staple.json", "out/p.toml")
    )

    def json_of(*arguments: str) -> Any:
        capsys.readouterr()
        assert run(*arguments, "--json") == 0
        return json.loads(capsys.readouterr().out)

    made = json_of("log", "init", log)
    assert run("log", "init", log) == 1
    assert run("release", "keygen", signer) == 0
    vkey = capsys.readouterr().out.strip().splitlines()[-1]
    options = [
        "--log",
        log,
        "--image",
        str(image),
        "--signer",
        signer,
    ]
    launch = ["--model", str(tmp_path / "model.gguf"), "--cmdline", "{}"]
    gpu = ["--gpu-arch", "HOPPER", "--gpu-driver", "1", "--gpu-vbios", "2"]
    assert run("release", "publish", *options, *launch, "--gpu-arch", "HOPPER") == 1
    # What no node can measure as is not published: it would take another release's place for good.
    assert run("release", "publish", *options, *launch[:2]) == 1
    assert run("release", "publish", *options, *launch[2:]) == 1
    assert "--show-command-line" in capsys.readouterr().err
    done = json_of("release", "publish", *options, *launch, *gpu, "--staple", staple, "--policy", policy)
    measured = json_of("measure", str(image), *launch)
    assert measured["launchDigest"] == done["launch_digest"]
    parsed = Staple.parse(Path(staple).read_bytes())
    table = tomllib.loads(Path(policy).read_text())["transparency"]
    assert (table["log"], table["signers"]) == (made["log"], [vkey])
    appraisal = check_staple(
        **{name: getattr(parsed, name) for name in Staple.__dataclass_fields__},
        policy=TransparencyPolicy.from_table(table),
        at=datetime.now(UTC),
        memory=VolatileMemory(),
    )
    assert appraisal.require().leaf_hash.hex() == done["leaf_hash"]
    listed = json_of("release", "list", "--log", log, "--signer", vkey)
    assert listed["authenticated"]
    assert [entry["state"] for entry in listed["releases"]] == ["active"]
    json_of(
        "release", "revoke", "--log", log, "--signer", signer, "--release", done["leaf_hash"], "--reason", "x"
    )
    assert json_of("release", "list", "--log", log)["releases"][0]["state"] == "revoked"
    assert run("release", "list", "--log", log) == 0
    tile = next((Path(log) / "public" / "tile" / "0").rglob("4"))
    tile.write_bytes(bytes(128))
    assert run("release", "list", "--log", log) == 3
    assert run("measure", str(tmp_path / "nowhere")) == 1
    assert run("release", "list", "--log", str(tmp_path / "nowhere")) == 1


def test_the_client_check_needs_neither_sigstore_nor_a_command_line() -> None:
    script = (
        "import sys, measurements.staple, measurements.policy, measurements.rollback\n"
        "bad = {'sigstore', 'typer', 'rich', 'httpx', 'httpx2', 'fastapi', 'torch', 'attestation', 'ohttp'}\n"
        "print(sorted(bad & {name.partition('.')[0] for name in sys.modules}))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_draft_of_an_image(image: Path, tmp_path: Path) -> None:
    measured = measure_image(image, model=tmp_path / "model.gguf")
    made = draft_release(measured, name="n", version="1", channel="prod", model_name="model.gguf")
    names = ["image", "weights:model.gguf", "model-signing:model.gguf"]
    assert [subject.name for subject in made.subjects] == names
    assert made.measurements == ({"tee": "sev-snp", "launchDigest": measured.launch_digest.hex()},)
