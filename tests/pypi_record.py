"""A PyPI attestation as published (PEP 740), put together from its public log record: pypi-attestations 0.0.19.

The entry's body is written as Rekor v1 does it, from the certificate and the signature; the log's own proof in the
record fails for any other bytes.
"""

import base64
import json
from typing import Any

import rfc8785
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

SUBJECT = "https://github.com/trailofbits/pypi-attestations/.github/workflows/release.yml@refs/tags/v0.0.19"
PREDICATE_TYPE = "https://docs.pypi.org/attestations/publish/v1"
FILE_SHA256 = bytes.fromhex("9bb1add04b1b4e182be6b0b80931593f7a291eb49d69b4fd728a5d4cbcdc4bd3")
_STATEMENT = (
    '{"_type":"https://in-toto.io/Statement/v1","subject":[{"name":"pypi_attestations-0.0.19.tar.gz","digest":'
    '{"sha256":"9bb1add04b1b4e182be6b0b80931593f7a291eb49d69b4fd728a5d4cbcdc4bd3"}}],'
    f'"predicateType":"{PREDICATE_TYPE}","predicate":null}}'
)
_SIGNATURE = (
    "MEYCIQC+Yjc/GP2HATHRmlyN85BGBJdDgOWm/GVMDuoU6ESX/gIhAIyakdnRMW84PJVQJxpPp3zxwA9IdP64teBnkeFl71OH"
)
_CERTIFICATE = (
    "MIIG/jCCBoSgAwIBAgIUB9+WbpxQR+oVugVlR2Qp01owfvEwCgYIKoZIzj0EAwMwNzEVMBMGA1UEChMMc2lnc3RvcmUuZGV2MR4wHAYD"
    "VQQDExVzaWdzdG9yZS1pbnRlcm1lZGlhdGUwHhcNMjQxMjA0MjMxNDAxWhcNMjQxMjA0MjMyNDAxWjAAMFkwEwYHKoZIzj0CAQYIKoZI"
    "zj0DAQcDQgAEga+LYX2vTD7c3fY1t/ppcVWnYsu4dJmLZgGlHTh3gdP10PGSxuOqfbMnW4PgkJNlbujG6D5XnNyVBiihXp/SEaOCBaMw"
    "ggWfMA4GA1UdDwEB/wQEAwIHgDATBgNVHSUEDDAKBggrBgEFBQcDAzAdBgNVHQ4EFgQUJUX7ijmrEJ4ZgNxWVoJSi2JWKOcwHwYDVR0j"
    "BBgwFoAU39Ppz1YkEZb5qNjpKFWixi4YZD8wbgYDVR0RAQH/BGQwYoZgaHR0cHM6Ly9naXRodWIuY29tL3RyYWlsb2ZiaXRzL3B5cGkt"
    "YXR0ZXN0YXRpb25zLy5naXRodWIvd29ya2Zsb3dzL3JlbGVhc2UueW1sQHJlZnMvdGFncy92MC4wLjE5MDkGCisGAQQBg78wAQEEK2h0"
    "dHBzOi8vdG9rZW4uYWN0aW9ucy5naXRodWJ1c2VyY29udGVudC5jb20wFQYKKwYBBAGDvzABAgQHcmVsZWFzZTA2BgorBgEEAYO/MAED"
    "BCgwODgwMmVmZTFmOGU1ZmVjNGFkODQyZDZiOGNlOTc2NTYwOTJlZTcyMBUGCisGAQQBg78wAQQEB3JlbGVhc2UwKwYKKwYBBAGDvzAB"
    "BQQddHJhaWxvZmJpdHMvcHlwaS1hdHRlc3RhdGlvbnMwHwYKKwYBBAGDvzABBgQRcmVmcy90YWdzL3YwLjAuMTkwOwYKKwYBBAGDvzAB"
    "CAQtDCtodHRwczovL3Rva2VuLmFjdGlvbnMuZ2l0aHVidXNlcmNvbnRlbnQuY29tMHAGCisGAQQBg78wAQkEYgxgaHR0cHM6Ly9naXRo"
    "dWIuY29tL3RyYWlsb2ZiaXRzL3B5cGktYXR0ZXN0YXRpb25zLy5naXRodWIvd29ya2Zsb3dzL3JlbGVhc2UueW1sQHJlZnMvdGFncy92"
    "MC4wLjE5MDgGCisGAQQBg78wAQoEKgwoMDg4MDJlZmUxZjhlNWZlYzRhZDg0MmQ2YjhjZTk3NjU2MDkyZWU3MjAdBgorBgEEAYO/MAEL"
    "BA8MDWdpdGh1Yi1ob3N0ZWQwQAYKKwYBBAGDvzABDAQyDDBodHRwczovL2dpdGh1Yi5jb20vdHJhaWxvZmJpdHMvcHlwaS1hdHRlc3Rh"
    "dGlvbnMwOAYKKwYBBAGDvzABDQQqDCgwODgwMmVmZTFmOGU1ZmVjNGFkODQyZDZiOGNlOTc2NTYwOTJlZTcyMCEGCisGAQQBg78wAQ4E"
    "EwwRcmVmcy90YWdzL3YwLjAuMTkwGQYKKwYBBAGDvzABDwQLDAk3NzIyNDc0MjMwLgYKKwYBBAGDvzABEAQgDB5odHRwczovL2dpdGh1"
    "Yi5jb20vdHJhaWxvZmJpdHMwFwYKKwYBBAGDvzABEQQJDAcyMzE0NDIzMHAGCisGAQQBg78wARIEYgxgaHR0cHM6Ly9naXRodWIuY29t"
    "L3RyYWlsb2ZiaXRzL3B5cGktYXR0ZXN0YXRpb25zLy5naXRodWIvd29ya2Zsb3dzL3JlbGVhc2UueW1sQHJlZnMvdGFncy92MC4wLjE5"
    "MDgGCisGAQQBg78wARMEKgwoMDg4MDJlZmUxZjhlNWZlYzRhZDg0MmQ2YjhjZTk3NjU2MDkyZWU3MjAXBgorBgEEAYO/MAEUBAkMB3Jl"
    "bGVhc2UwZAYKKwYBBAGDvzABFQRWDFRodHRwczovL2dpdGh1Yi5jb20vdHJhaWxvZmJpdHMvcHlwaS1hdHRlc3RhdGlvbnMvYWN0aW9u"
    "cy9ydW5zLzEyMTY5OTg5Nzg3L2F0dGVtcHRzLzEwFgYKKwYBBAGDvzABFgQIDAZwdWJsaWMwgYoGCisGAQQB1nkCBAIEfAR6AHgAdgDd"
    "PTBqxscRMmMZHhyZZzcCokpeuN48rf+HinKALynujgAAAZOT87EeAAAEAwBHMEUCIQDT5XCp5Zk2YLgHSwKh7T13nBcpaEkqSA9FENdl"
    "c79RWgIgKhBG+Wxyj/J1Y871dOuuGFl++LhPrZPa3SVnOSgWn10wCgYIKoZIzj0EAwMDaAAwZQIxAJKeTgj+ghc3peD01ARd9aIVsEpD"
    "GdbOazKA2uaQNvSLOuduyJkLlNUNKN8QaNwpsQIwTpZ64vtjwC2SZAqb21Bn4qV7tLBJmIWx1lUe0QlVyix1180TkCZ0BVcfoD4xICKI"
)
_HASHES = [
    "Ys0Xl1UkpNskWt6zZj4IF0V4C0hQnG2rcYT7yITCgxs=",
    "SZr1mNOrcyCB9fdcJOMiVFgh1vv3F1JOn4Iro9CbeI0=",
    "PcaivMMXf/sp7holRDnainZ7CqkhfGbumRzqHBLORyo=",
    "QmGjL5m3QfWxTeS1DSKdcZi1Cb/kXHez6zUQJFM+6No=",
    "RzzP82vxkFlwbK42drRrLKdQO7cU4TutI9RH4GZWqmc=",
    "T180VQg42xooybP3Nj9QuoOWlDWbbaQ4n4S2wWmwsSc=",
    "hABDIJpRLjWOq3nQy0+WmZvudV2qvqHNysU41bEne1Q=",
    "pDqPuFyZgsegAtT2zcnZSet9YAZExTulHeEunQ5/LRg=",
    "Q+viUQ+8PPr3Ck1WOMcjETEmAMGVbNDvGlSy6G/aFAI=",
    "R7hO1X+KgSw8Oojd8i2+G3BzBYztkRBE6LpYSXPg33U=",
    "oOecFfN3YqDOkbijS/ej1WF5Da/Gt/AZNhbwE9uoOE8=",
    "4lUF0YOu9XkIDXKXA0wMSzd6VeDY3TZAgmoOeWmS2+Y=",
    "gf+9m552B3PnkWnO0o4KdVvjcT3WVHLrCbf1DoVYKFw=",
]
_CHECKPOINT = (
    "rekor.sigstore.dev - 1193050959916656506\n31550402\ny0mvJokg0K9X78/zSkzLfaoYE1EUnA0l4CTQQXV1g4o=\n\n"
    "— rekor.sigstore.dev wNI9ajBFAiBegciq2ELY5ENvqNVWFm9cEfG5dKBwBegOEaoDVWLdVwIhAJAOwu2VWIQojdyGzsV/t4MRCOkd"
    "uH9SVKL8yoK9qMc2\n"
)


def attestation() -> dict[str, Any]:
    """The attestation object, version 1."""
    certificate = x509.load_der_x509_certificate(base64.b64decode(_CERTIFICATE))
    spec: Any = {
        "envelopeHash": {
            "algorithm": "sha256",
            "value": "eac5659d846a16137a41b3413a9118f1b86141a6bb1b154aafa5fa4f652cac44",
        },
        "payloadHash": {
            "algorithm": "sha256",
            "value": "f9790e8a87d01898d00d2ce1ca6ce42bfc6ce59faaa31baa0ab64064a6968000",
        },
        "signatures": [
            {
                "signature": _SIGNATURE,
                "verifier": base64.b64encode(certificate.public_bytes(Encoding.PEM)).decode(),
            }
        ],
    }
    body = rfc8785.dumps({"apiVersion": "0.0.1", "kind": "dsse", "spec": spec})
    entry = {
        "canonicalizedBody": base64.b64encode(body).decode(),
        "inclusionPromise": {
            "signedEntryTimestamp": "MEQCIBCltBioLJc+JvwwmgQ1BYgIOE5RTG+4e7X3zQRGa6ZHAiA46xAH8obqC29dw2T8gwyl"
            "lNzqr2tfG8iMWLnFKuIORQ=="
        },
        "inclusionProof": {
            "checkpoint": {"envelope": _CHECKPOINT},
            "hashes": _HASHES,
            "logIndex": "31550401",
            "rootHash": "y0mvJokg0K9X78/zSkzLfaoYE1EUnA0l4CTQQXV1g4o=",
            "treeSize": "31550402",
        },
        "integratedTime": "1733354041",
        "kindVersion": {"kind": "dsse", "version": "0.0.1"},
        "logId": {"keyId": "wNI9atQGlz+VWfO6LRygH4QUfY/8W4RFwiT5i5WRgB0="},
        "logIndex": "153454663",
    }
    return {
        "version": 1,
        "verification_material": {"certificate": _CERTIFICATE, "transparency_entries": [entry]},
        "envelope": {"statement": base64.b64encode(_STATEMENT.encode()).decode(), "signature": _SIGNATURE},
    }


def provenance() -> bytes:
    """A provenance object around it, as an index serves it."""
    publisher = {"kind": "GitHub", "repository": "trailofbits/pypi-attestations", "workflow": "release.yml"}
    bundles = [{"publisher": publisher, "attestations": [attestation()]}]
    return json.dumps({"version": 1, "attestation_bundles": bundles}).encode()
