"""The proxy serves programs of this machine; a page in its browser is none."""

import asyncio
from typing import Any

import pytest
from gateway_driver import drive

from client_sdk.client import PrivateClient
from client_sdk.proxy import Proxy


class Untouched(PrivateClient):
    """A client that nothing may reach."""

    def __init__(self) -> None:
        pass


def status(*headers: tuple[bytes, bytes]) -> int:
    proxy: Any = Proxy(Untouched())
    return asyncio.run(drive(proxy, b"", headers=headers, path="/elsewhere")).status


@pytest.mark.parametrize(
    "host", [b"127.0.0.1:8808", b"localhost:8808", b"LOCALHOST", b"[::1]:8808", b"127.0.0.1"]
)
def test_control_a_program_of_this_machine_is_served(host: bytes) -> None:
    assert status((b"host", host)) == 404  # heard, and told that there is no such path
    assert status((b"host", host), (b"origin", b"http://localhost:3000")) == 404


@pytest.mark.parametrize(
    "header",
    [
        (b"host", b"rebound.example:8808"),
        (b"host", b"127.0.0.1.rebound.example"),
        (b"host", b"localhost@rebound.example"),
        (b"origin", b"https://page.example"),
        (b"origin", b"null"),
        (b"origin", b"http://localhost.page.example"),
    ],
)
def test_a_page_from_elsewhere_is_not_served_whatever_its_name_resolves_to(
    header: tuple[bytes, bytes],
) -> None:
    assert status((b"host", b"127.0.0.1:8808"), header) == 403
