"""Finding a gateway: what is asked, what is believed, and that nobody is led elsewhere."""

import hashlib
from collections.abc import Callable

import httpx2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ohttp import kem
from ohttp.discovery import WELL_KNOWN, discover, gateway_url, read_answer
from ohttp.errors import DiscoveryError, KeyConfigError, OhttpError
from ohttp.keyconfig import MAX_LIST_SIZE, MEDIA_TYPE, GatewayKey, KeyRing

RING = KeyRing([GatewayKey.generate(2, kem.X25519), GatewayKey.generate(1, kem.MLKEM768_X25519)])
LIST = RING.encoded()
HEADERS = {"content-type": MEDIA_TYPE}


def service(
    answer: Callable[[httpx2.Request], httpx2.Response],
) -> tuple[httpx2.Client, list[httpx2.Request]]:
    asked: list[httpx2.Request] = []

    def handle(request: httpx2.Request) -> httpx2.Response:
        asked.append(request)
        return answer(request)

    return httpx2.Client(transport=httpx2.MockTransport(handle), cookies={"id": "7"}), asked


def test_the_gateway_is_at_the_well_known_place_and_its_best_key_is_taken() -> None:
    client, asked = service(lambda _: httpx2.Response(200, headers=HEADERS, content=iter([LIST])))
    found = discover("https://example.com:8443/", client)
    assert found.url == "https://example.com:8443/.well-known/ohttp-gateway"
    assert (found.encoded, found.configs) == (LIST, RING.configs)
    assert found.preferred.kem_id == kem.MLKEM768_X25519
    (request,) = asked
    assert (request.method, str(request.url)) == ("GET", found.url)
    assert {name.lower() for name in request.headers} == {"host", "accept", "accept-encoding"}
    assert request.headers["accept"] == MEDIA_TYPE


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308, 300, 304])
def test_a_redirect_leads_nowhere(status: int) -> None:
    def answer(request: httpx2.Request) -> httpx2.Response:
        if request.url.path != WELL_KNOWN:
            return httpx2.Response(200, headers=HEADERS, content=iter([LIST]))
        return httpx2.Response(status, headers={"location": "https://example.com/gateway/for/alice"})

    client, asked = service(answer)
    with pytest.raises(DiscoveryError) as caught:
        discover("https://example.com", client)
    assert caught.value.code == "redirected"
    assert "alice" not in str(caught.value)
    assert len(asked) == 1


@pytest.mark.parametrize(
    ("response", "code"),
    [
        (httpx2.Response(404, headers=HEADERS, content=iter([LIST])), "status"),
        (httpx2.Response(200, content=iter([LIST])), "media_type"),
        (httpx2.Response(200, headers={"content-type": "text/html"}, content=iter([LIST])), "media_type"),
        (
            httpx2.Response(200, headers={**HEADERS, "content-encoding": "gzip"}, content=iter([b""])),
            "encoded",
        ),
        (httpx2.Response(200, headers=HEADERS, content=iter([bytes(MAX_LIST_SIZE + 1)])), "too_large"),
        (httpx2.Response(200, headers=HEADERS, content=iter([LIST[:-1]])), "malformed"),
        (httpx2.Response(200, headers=HEADERS, content=iter([b""])), "no_keys"),
    ],
)
def test_what_is_no_list_of_keys_is_refused(response: httpx2.Response, code: str) -> None:
    client, _ = service(lambda _: response)
    with pytest.raises(OhttpError) as caught:
        discover("https://example.com", client)
    assert caught.value.code == code


def test_a_list_that_drips_is_not_waited_for() -> None:
    moments = iter(range(0, 1000, 10))
    client, _ = service(
        lambda _: httpx2.Response(
            200, headers=HEADERS, content=(LIST[at : at + 1] for at in range(len(LIST)))
        )
    )
    with pytest.raises(DiscoveryError) as caught:
        discover("https://example.com", client, timeout_s=30, clock=lambda: next(moments))
    assert caught.value.code == "slow"
    assert next(moments) < 100


def test_a_pinned_list_is_that_one_or_none() -> None:
    client, _ = service(lambda _: httpx2.Response(200, headers=HEADERS, content=iter([LIST])))
    digest = hashlib.sha256(LIST).digest()
    assert discover("http://127.0.0.1:8080", client, digest=digest).configs == RING.configs
    with pytest.raises(KeyConfigError) as caught:
        discover("https://example.com", client, digest=bytes(32))
    assert caught.value.code == "key_mismatch"


@pytest.mark.parametrize(
    "origin",
    [
        "http://example.com",
        "ftp://example.com",
        "example.com",
        "https://",
        "https://user@example.com",
        "https://example.com/path",
        "https://example.com?q",
        "https://example.com#f",
        "https://example.com:0",
        "https://example.com:99999",
        "https://exämple.com",
        "https://[::1",
        "https://exa mple.com",
        "https://example.com\\@other.example",
        "https://:443",
        "https://example.com%2f",
        "https://example.com\r\nx: y",
        "",
    ],
)
def test_only_origins_are_asked(origin: str) -> None:
    with pytest.raises(DiscoveryError) as caught:
        gateway_url(origin)
    assert caught.value.code == "origin"


@given(st.text(max_size=60))
def test_any_text_is_an_origin_or_an_error_of_ours(text: str) -> None:
    for candidate in (text, f"https://{text}"):
        try:
            assert gateway_url(candidate).endswith(WELL_KNOWN)
        except DiscoveryError:
            continue


@given(st.integers(100, 599), st.binary(max_size=200))
def test_any_answer_is_a_gateway_or_an_error_of_ours(status: int, body: bytes) -> None:
    with pytest.raises(OhttpError):
        read_answer("https://x" + WELL_KNOWN, status, HEADERS, body)
