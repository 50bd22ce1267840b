"""Reference manifests: the signature profile, what the signed document says, and hostile bytes."""

import random
import time
import tracemalloc
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from attestation.errors import AttestationError
from attestation.nvidia.c14n import MAX_DOCUMENT, canonical, parse_document
from attestation.nvidia.measurements import compare
from attestation.nvidia.rim import Rim, check_rim, verify_rim
from attestation.nvidia.rim_id import RimKind, RimRequest
from attestation.simulated.nvidia_rim import Manifest, SimulatedRimPki, document

AT = datetime(2026, 11, 21, tzinfo=UTC)
PKI = SimulatedRimPki.create()
VALUE = b"\x11" * 48
MANIFEST = Manifest("590.12", "GH100", {7: [VALUE], 21: [VALUE, b"\x22" * 48]})
UNSIGNED = document(MANIFEST)
SIGNED = PKI.sign(UNSIGNED)
RESOURCE = '<ns0:Resource type="Measurement" index="7" active="True" alternatives="1"'


def judge(data: bytes) -> Rim:
    return verify_rim(data, roots={PKI.root_sha256}, at=AT)


def code_of(data: bytes) -> str:
    try:
        judge(data)
    except AttestationError as error:
        return error.code
    return ""


def signed_with(old: str, new: str) -> bytes:
    """A document changed before it was signed: genuine, whatever it says."""
    assert old in UNSIGNED
    return PKI.sign(UNSIGNED.replace(old, new, 1))


def changed(old: str, new: str) -> bytes:
    """A document changed after it was signed."""
    assert old in SIGNED.decode()
    return SIGNED.decode().replace(old, new, 1).encode()


def test_what_was_signed_is_what_is_read() -> None:
    rim = judge(SIGNED)
    assert (rim.version, rim.product, rim.edition) == ("590.12", "GH100", "GPU")
    assert rim.measurements == {7: (VALUE,), 21: (VALUE, b"\x22" * 48)}
    assert len(rim.certificates) == 4


@pytest.mark.parametrize(
    ("old", "new", "code"),
    [
        ('index="8"', 'index="7"', "rim_malformed"),
        ('index="8"', 'index="256"', "rim_malformed"),
        ('index="8"', 'index="08"', "rim_malformed"),
        ('active="True"', 'active="true"', "rim_malformed"),
        ('active="True"', "", "rim_malformed"),
        ('active="True" alternatives="1"', 'active="True" alternatives="2"', "rim_malformed"),
        ('active="True" alternatives="1"', 'active="True" alternatives="0"', "rim_malformed"),
        ('active="True" alternatives="1"', 'active="True"', "rim_malformed"),
        ("11" * 48, "11" * 47, "rim_malformed"),
        ("11" * 48, "zz" * 48, "rim_malformed"),
        ('size="48"', 'size="32"', "rim_malformed"),
        ('type="Measurement"', 'type="Other"', "rim_malformed"),
        ("</ns0:Payload>", "</ns0:Payload><ns0:Payload/>", "rim_malformed"),
        ("<ns0:Entity", "<ns0:Meta/><ns0:Entity", "rim_malformed"),
        ("<ns0:Entity", "<ns0:Link/><ns0:Entity", "rim_profile"),
        ("<ns0:Entity", "<ns2:Entity/><ns0:Entity", "rim_profile"),
        ("<ns0:Entity", "text<ns0:Entity", "rim_malformed"),
        ('colloquialVersion="590.12"', "", "rim_malformed"),
        ('active="True"', 'active="False"', ""),
        ("<ns0:Entity", "<!-- a comment --><ns0:Entity", ""),
    ],
)
def test_signed_documents_that_say_something_else(old: str, new: str, code: str) -> None:
    assert code_of(signed_with(old, new)) == code


def test_no_active_measurement() -> None:
    assert code_of(PKI.mint(replace(MANIFEST, measurements={}))) == "rim_empty"


@pytest.mark.parametrize(
    ("old", "new", "code"),
    [
        ("11" * 48, "12" * 48, "rim_signature_invalid"),
        ("590.12", "590.13", "rim_signature_invalid"),
        ("</ns0:Payload>", "</ns0:Payload> ", "rim_signature_invalid"),
        ("<ns0:Entity", "<!-- a comment --><ns0:Entity", ""),
        ('URI=""', 'URI="#x"', "rim_profile"),
        ('URI=""', "", "rim_profile"),
        ("c14n11", "c14n12", "rim_profile"),
        ("xmldsig-more#sha384", "xmldsig-more#sha256", "rim_profile"),
        ("ecdsa-sha384", "hmac-sha384", "rim_profile"),
        ("<ds:KeyInfo>", "<ds:KeyInfo><ds:KeyValue/>", "rim_profile"),
        ("<ds:X509Data>", "<ds:X509Data><ds:X509SubjectName/>", "rim_profile"),
        ("</ds:Signature>", "<ds:Object/></ds:Signature>", "rim_profile"),
        ("</ds:Signature>", "<ds:Signature/></ds:Signature>", "rim_profile"),
        (
            "</ds:Signature>",
            '</ds:Signature><Signature xmlns="http://www.w3.org/2000/09/xmldsig#"/>',
            "rim_profile",
        ),
        ("<ds:SignatureValue>", "<ds:SignatureValue>AAAA", "rim_malformed"),
        ("<ds:SignatureValue>", "<ds:SignatureValue>!", "rim_malformed"),
        ("<ds:DigestValue>", "<ds:DigestValue><!-- x -->", "rim_malformed"),
        ("<SoftwareIdentity", "<!DOCTYPE x><SoftwareIdentity", "rim_profile"),
        ("<SoftwareIdentity", "<?pi x?><SoftwareIdentity", "rim_profile"),
        ("<ns0:Entity", "<ns0:Entity><![CDATA[x]]></ns0:Entity><ns0:Entity", "rim_profile"),
        ("<SoftwareIdentity", '<?xml version="1.0" encoding="UTF-16"?><SoftwareIdentity', "rim_profile"),
        ("<SoftwareIdentity", '<?xml version="1.0" encoding="utf-8"?><SoftwareIdentity', ""),
        ("<ns0:Entity", "<nowhere:x/><ns0:Entity", "rim_malformed"),
        ('corpus="false"', 'corpus="false" xml:base="x"', "rim_profile"),
        ("</SoftwareIdentity>", "", "rim_malformed"),
        ("</SoftwareIdentity>", "</SoftwareIdentity>x", "rim_malformed"),
    ],
)
def test_changes_after_signing(old: str, new: str, code: str) -> None:
    assert code_of(changed(old, new)) == code


def test_a_version_or_a_chip_that_was_not_asked_for() -> None:
    rim = judge(SIGNED)
    request = RimRequest(RimKind.DRIVER, "NV_GPU_DRIVER_GH100_590.12", "590.12", "GH100")
    check_rim(rim, request)
    for other, code in (
        (replace(request, version="590.13"), "rim_version_mismatch"),
        (replace(request, product="GB100"), "rim_product_mismatch"),
        (replace(request, kind=RimKind.SWITCH_BIOS), "rim_product_mismatch"),
    ):
        with pytest.raises(AttestationError) as caught:
            check_rim(rim, other)
        assert caught.value.code == code


@pytest.mark.parametrize(
    ("measured", "options", "code"),
    [
        ({7: VALUE, 21: VALUE}, {}, ""),
        ({7: VALUE, 21: b"\x22" * 48}, {}, ""),
        ({7: VALUE, 21: b"\x33" * 48}, {}, "measurement_mismatch"),
        ({7: VALUE[:47], 21: VALUE}, {}, "measurement_mismatch"),
        ({7: VALUE, 21: VALUE, 30: VALUE}, {}, ""),
        ({7: VALUE, 21: VALUE, 30: VALUE}, {"reject_uncovered": True}, "measurement_uncovered"),
    ],
)
def test_comparison(measured: dict[int, bytes], options: dict[str, bool], code: str) -> None:
    digests = [measured.get(index, bytes(48)) for index in range(64)]
    found = ""
    wanted = {"leave_out_nvdec": False, "reject_uncovered": False, **options}
    try:
        compare(digests, [judge(SIGNED)], **wanted)
    except AttestationError as error:
        found = error.code
    assert found == code


def test_comparison_of_what_is_not_reported_and_of_what_two_manifests_claim() -> None:
    rim = judge(SIGNED)
    with pytest.raises(AttestationError) as caught:
        compare([VALUE] * 10, [rim], leave_out_nvdec=False, reject_uncovered=False)
    assert caught.value.code == "measurement_missing"
    with pytest.raises(AttestationError) as caught:
        compare([VALUE] * 64, [rim, rim], leave_out_nvdec=False, reject_uncovered=False)
    assert caught.value.code == "rim_index_conflict"


def test_index_35_counts_unless_its_decoder_is_off() -> None:
    rim = judge(PKI.mint(Manifest("590.12", "GH100", {35: [VALUE], 36: [VALUE]})))
    digests = [VALUE if index == 36 else bytes(48) for index in range(64)]
    found = compare(digests, [rim], leave_out_nvdec=True, reject_uncovered=False)
    assert (found.matched, found.left_out) == ((36,), (35,))
    assert "35" in found.warnings[0]
    with pytest.raises(AttestationError) as caught:
        compare(digests, [rim], leave_out_nvdec=False, reject_uncovered=False)
    assert caught.value.code == "measurement_mismatch"


def test_canonical_form() -> None:
    """The rules of Canonical XML 1.1 that the manifests of the vectors do not all need."""
    text = (
        '<?xml version="1.0"?>\r\n<b:r xmlns:z="urn:z" xmlns="urn:d" xmlns:b="urn:b" z="1" b:a=\'x"&lt;&#9;y\' a="2">'
        '<c xmlns="urn:d" xmlns:z="urn:z"> t &gt; &amp;&#13; </c><e xmlns=""/><!-- gone --></b:r>'
    )
    expected = (
        '<b:r xmlns="urn:d" xmlns:b="urn:b" xmlns:z="urn:z" a="2" z="1" b:a="x&quot;&lt;&#x9;y">'
        '<c> t &gt; &amp;&#xD; </c><e xmlns=""></e></b:r>'
    )
    root = parse_document(text.encode())
    assert canonical(root).decode() == expected
    first = root.elements[0]
    apex = '<c xmlns="urn:d" xmlns:b="urn:b" xmlns:z="urn:z"> t &gt; &amp;&#xD; </c>'
    assert canonical(first).decode() == apex


BOMBS = {
    "depth": b"<a>" * 80_000,
    "elements": b"<r>" + b"<a/>" * 60_000 + b"</r>",
    "attributes": b"<r " + b" ".join(b'a%d="x"' % place for place in range(20_000)) + b"/>",
    "namespaces": b"<r "
    + b" ".join(b'xmlns:a%d="x"' % place for place in range(10_000))
    + b">"
    + b'<a xmlns:b="y"/>' * 1000
    + b"</r>",
    "entities": b'<!DOCTYPE r [<!ENTITY a "'
    + b"x" * 1000
    + b'">'
    + b"".join(b'<!ENTITY a%d "%s">' % (n, b"&a;" * 9) for n in range(50))
    + b"]><r>&a49;</r>",
    "text": b"<r>" + b"x" * (MAX_DOCUMENT - 7) + b"</r>",
    "references": b"<r>" + b"&#13;" * 50_000 + b"</r>",
    "comments": b"<r>" + b"<!---->" * 30_000 + b"</r>",
    "comments between texts": b"<r>" + b"x<!---->" * 30_000 + b"</r>",
    "length": b" " * (MAX_DOCUMENT + 1),
    "certificates": SIGNED.replace(
        b"<ds:X509Data>", b"<ds:X509Data>" + b"<ds:X509Certificate>AA</ds:X509Certificate>" * 900
    ),
}


@pytest.mark.parametrize("name", BOMBS)
def test_bombs(name: str) -> None:
    data = BOMBS[name]
    tracemalloc.start()
    try:
        assert code_of(data) in ("rim_malformed", "rim_profile")
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 16 * 1024 * 1024
    times = []
    for _ in range(3):
        begin = time.process_time()
        code_of(data)
        times.append(time.process_time() - begin)
    assert min(times) < 0.1


@given(st.binary(max_size=400))
def test_random_bytes_stay_in_the_family(data: bytes) -> None:
    with suppress(AttestationError):
        judge(data)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_random_changes_never_change_what_is_read(data: st.DataObject) -> None:
    place = data.draw(st.integers(0, len(SIGNED) - 1))
    mutated = bytearray(SIGNED)
    mutated[place] = data.draw(st.integers(0, 255))
    with suppress(AttestationError):
        rim = judge(bytes(mutated))
        assert (rim.version, rim.measurements) == ("590.12", judge(SIGNED).measurements)


def test_truncation_stays_in_the_family() -> None:
    for length in range(0, len(SIGNED), 61):
        assert code_of(SIGNED[:length])


@pytest.mark.exhaustive
def test_every_truncation_and_many_changes() -> None:
    lines = [line for line in UNSIGNED.splitlines() if 'active="False"' not in line]
    small = PKI.sign("\n".join(lines))  # inactive entries are most of a manifest, and say nothing
    genuine = judge(small)
    longest = 0.0
    generator = random.Random(4)
    for count in range(100_000):
        if count < len(small):
            mutated = small[:count]
        else:
            mutated = bytearray(small)
            for _ in range(generator.choice((1, 1, 1, 2, 8))):
                mutated[generator.randrange(len(mutated))] = generator.randrange(256)
            mutated = bytes(mutated)
        begin = time.process_time()
        try:
            rim = judge(mutated)
        except AttestationError:
            pass
        else:
            assert (rim.version, rim.measurements) == (genuine.version, genuine.measurements)
        longest = max(longest, time.process_time() - begin)
    assert longest < 0.1
