"""Keys and evidence of a node over time: what is bound, what is live, what is accepted, what is refused."""

import asyncio
import hashlib
from datetime import UTC, datetime, timedelta

import pytest

from attestation.bundle import CpuSection, EvidenceBundle
from attestation.claims import Claims, gpu_nonce, quote_nonce, report_data
from attestation.errors import PlatformFault
from attestation.nvidia.policy import GpuPolicy
from attestation.nvidia.verify import verify_gpus
from attestation.simulated.nvidia import SimulatedGpus
from enclave_runtime.errors import NodeError
from enclave_runtime.evidence import EvidenceMaker
from enclave_runtime.exit_codes import ExitCode
from enclave_runtime.identity import FRESH_BURST, Identity
from enclave_runtime.standing_thread import StandingThread
from measurements.staple import Staple
from ohttp.kem import MLKEM768_X25519, X25519
from ohttp.keyconfig import parse_key_configs
from ohttp.rotation import OVERLAP

START = datetime(2026, 3, 1, 12, tzinfo=UTC).timestamp()
STAPLE = Staple(b"rp", b"rl", b"sp", b"sl", b"checkpoint")


class Cpu:
    """Answers with the report data itself, so that a test can read what was asked."""

    data_length = 64

    def __init__(self):
        self.broken = False

    def report(self, data: bytes) -> CpuSection:
        if self.broken:
            raise PlatformFault(code="platform_gone", detail="")
        return CpuSection("sev-snp", data, {"vek": b"v", "ask": b"s", "ark": b"r"})


class Clock:
    def __init__(self):
        self.time = START

    def __call__(self) -> float:
        return self.time

    def advance(self, **by):
        self.time += timedelta(**by).total_seconds()


@pytest.fixture(scope="module")
def gpus(tmp_path_factory):
    return SimulatedGpus.open(tmp_path_factory.mktemp("gpus"), 2)


@pytest.fixture(scope="module")
def gpu_policy(gpus):
    return GpuPolicy.from_table(
        {"count": 2}, simulated_root=gpus.root_sha256, simulated_rim_root=gpus.rim_root_sha256
    )


@pytest.fixture
def thread():
    thread = StandingThread("evidence")
    yield thread
    thread.stop()


@pytest.fixture
def cpu():
    return Cpu()


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def maker(cpu, gpus, gpu_policy):
    return EvidenceMaker(cpu, gpus, 2, gpu_policy, STAPLE, b'{"runtime":1}')


@pytest.fixture
def identity(maker, clock, thread):
    return Identity(maker, epoch=timedelta(hours=24), now=clock, thread=thread)


def claims_of(data: bytes) -> tuple[EvidenceBundle, Claims]:
    bundle = EvidenceBundle.parse(data)
    return bundle, Claims.parse(bundle.claims)


def test_the_bundle_binds_key_gpus_runtime_and_checkpoint(identity, gpu_policy):
    bundle, claims = claims_of(identity.current())
    assert bundle.ohttp_keys == identity.keyring().encoded()
    assert claims.ohttp_keys == hashlib.sha256(bundle.ohttp_keys).digest()
    assert claims.gpu_evidence == hashlib.sha256(bundle.gpus).digest()
    assert claims.runtime == hashlib.sha256(b'{"runtime":1}').digest()
    assert claims.checkpoint == hashlib.sha256(b"checkpoint").digest()
    assert bundle.cpu.evidence == report_data(bundle.claims)
    nonce = gpu_nonce(ohttp_keys=bundle.ohttp_keys, checkpoint=b"checkpoint", nonce=b"", gpu_count=2)
    at = datetime.fromtimestamp(START, UTC)
    assert len(verify_gpus(bundle.gpus, nonce, gpu_policy, at, bundle.gpu_collateral)) == 2
    assert claims.not_before <= datetime.fromtimestamp(START, UTC) < claims.not_after


def test_a_tpm_is_asked_to_sign_what_a_tpm_signs(cpu, gpus, gpu_policy):
    cpu.data_length = 32
    maker = EvidenceMaker(cpu, gpus, 2, gpu_policy, STAPLE, b"{}")
    at = datetime.fromtimestamp(START, UTC)
    data = maker.make(ohttp_keys=b"keys", nonce=b"", not_before=at, not_after=at + timedelta(hours=1), at=at)
    bundle, _ = claims_of(data)
    assert bundle.cpu.evidence == quote_nonce(bundle.claims)


def test_the_key_list_has_x_wing_first_and_x25519_second(identity):
    configs = parse_key_configs(identity.keyring().encoded())
    assert [config.kem_id for config in configs] == [MLKEM768_X25519, X25519]
    assert (configs[0].key_id + 1) % 256 == configs[1].key_id


def test_a_challenge_gives_fresh_evidence_that_is_live_too(identity):
    nonce = bytes(range(32))
    data = asyncio.run(identity.fresh(nonce))
    _, claims = claims_of(data)
    assert claims.nonce == nonce
    assert identity.is_live(hashlib.sha256(data).digest())
    assert identity.is_live(hashlib.sha256(identity.current()).digest())
    assert not identity.is_live(bytes(32))


def test_challenges_are_limited(identity, clock):
    async def ask(count):
        return [await identity.fresh(bytes(32)) for _ in range(count)]

    answers = asyncio.run(ask(FRESH_BURST + 2))
    assert [answer is None for answer in answers] == [False] * FRESH_BURST + [True] * 2
    clock.advance(seconds=1)
    assert [answer is None for answer in asyncio.run(ask(2))] == [False, True]


def test_epochs_overlap_and_old_keys_are_dropped(identity, clock):
    first = identity.keyring()
    first_digest = hashlib.sha256(identity.current()).digest()
    assert asyncio.run(identity.renew()) is False
    clock.advance(hours=23)
    assert asyncio.run(identity.renew()) is True
    both = identity.keyring()
    assert both.configs[2:] == first.configs
    assert len({config.key_id for config in both.configs}) == 4
    assert identity.is_live(first_digest)
    second_digest = hashlib.sha256(identity.current()).digest()
    clock.advance(hours=1, minutes=59)
    assert identity.is_live(first_digest) is False or asyncio.run(identity.renew())
    clock.advance(minutes=1)
    asyncio.run(identity.renew())
    assert identity.keyring().configs == both.configs[:2]
    assert not identity.is_live(first_digest)
    assert identity.is_live(second_digest)
    _, claims = claims_of(identity.current())
    assert claims.ohttp_keys == hashlib.sha256(identity.keyring().encoded()).digest()


def test_a_platform_that_fails_at_renewal_leaves_the_old_keys(identity, clock, cpu):
    ring = identity.keyring()
    cpu.broken = True
    clock.advance(hours=23)
    with pytest.raises(NodeError):
        asyncio.run(identity.renew())
    assert identity.keyring() is ring
    cpu.broken = False
    assert asyncio.run(identity.renew()) is True


def test_keys_end_in_time_where_the_platform_gives_no_more_evidence(identity, clock, cpu):
    ring, digest = identity.keyring(), hashlib.sha256(identity.current()).digest()
    cpu.broken = True
    clock.advance(hours=24, minutes=57)
    identity.drop_ended_keys()
    assert identity.keyring() is ring
    clock.advance(minutes=2)
    identity.drop_ended_keys()
    assert not {config.public_key for config in ring.configs} & {
        config.public_key for config in identity.keyring().configs
    }
    assert not identity.is_live(digest)
    assert asyncio.run(identity.fresh(bytes(32))) is None
    with pytest.raises(NodeError):
        asyncio.run(identity.renew())
    cpu.broken = False
    assert asyncio.run(identity.renew()) is True
    assert identity.is_live(hashlib.sha256(identity.current()).digest())


def test_a_platform_that_never_answers_cannot_keep_old_keys_alive(maker, clock, monkeypatch):
    class Silent:
        async def run(self, work):
            await asyncio.Event().wait()

    monkeypatch.setattr("enclave_runtime.identity._CHECK_EVERY_S", 0.01)
    identity = Identity(maker, epoch=timedelta(hours=24), now=clock, thread=Silent())
    ring = identity.keyring()

    async def work():
        keeping = asyncio.create_task(identity.keep_renewed())
        clock.advance(hours=23)
        await asyncio.sleep(0.05)
        assert identity.keyring() is ring
        clock.advance(hours=2)
        await asyncio.sleep(0.05)
        keeping.cancel()

    asyncio.run(work())
    assert identity.keyring() is not ring


def test_challenges_at_the_allowed_rate_never_use_up_what_others_need(identity, clock, monkeypatch):
    monkeypatch.setattr(identity, "_evidence", lambda epoch, keys, nonce: nonce)

    async def work():
        for number in range(4300):
            clock.advance(seconds=1)
            assert await identity.fresh(number.to_bytes(32, "big")) is not None, number

    asyncio.run(work())


def test_without_cpu_evidence_there_is_no_identity(maker, cpu, clock, thread):
    cpu.broken = True
    with pytest.raises(NodeError) as caught:
        Identity(maker, epoch=timedelta(hours=24), now=clock, thread=thread)
    assert caught.value.exit_code is ExitCode.PLATFORM


@pytest.mark.parametrize("configured", [0, 1, 3])
def test_another_number_of_gpus_is_refused(configured, cpu, gpus, gpu_policy, clock, thread):
    maker = EvidenceMaker(cpu, gpus, configured, gpu_policy, STAPLE, b"{}")
    with pytest.raises(NodeError) as caught:
        Identity(maker, epoch=timedelta(hours=24), now=clock, thread=thread)
    assert (caught.value.code, caught.value.exit_code) == ("gpu_count", ExitCode.GPU)


def test_gpus_that_the_nodes_own_policy_refuses_are_refused(cpu, gpus, clock, thread):
    maker = EvidenceMaker(cpu, gpus, 2, GpuPolicy.production(), STAPLE, b"{}")
    with pytest.raises(NodeError) as caught:
        Identity(maker, epoch=timedelta(hours=24), now=clock, thread=thread)
    assert caught.value.exit_code is ExitCode.GPU


def test_a_node_without_gpus_has_an_empty_section(cpu, clock, thread, tmp_path):
    none = SimulatedGpus.open(tmp_path, 0)
    maker = EvidenceMaker(cpu, none, 0, GpuPolicy.production(), STAPLE, b"{}")
    bundle, claims = claims_of(Identity(maker, epoch=timedelta(hours=24), now=clock, thread=thread).current())
    assert bundle.gpus == b""
    assert claims.gpu_evidence == hashlib.sha256(b"").digest()


def test_an_epoch_too_short_for_its_overlaps_is_refused(maker, clock, thread):
    with pytest.raises(ValueError, match="overlap"):
        Identity(maker, epoch=2 * OVERLAP, now=clock, thread=thread)


def test_keys_show_in_no_representation(identity):
    shown = repr(identity.keyring()) + repr(identity._rotation.epochs)
    assert "private" not in shown.lower()
