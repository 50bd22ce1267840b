"""Portable executables and Linux images in miniature, for predictions of what firmware measures."""

import struct


def executable(sections: dict[str, bytes], *, setup: bytes = b"") -> bytes:
    """A PE32+ image with these sections, and a Linux setup header where asked."""
    headers = bytearray(0x1000)
    headers[:2] = b"MZ"
    headers[0x3C:0x40] = struct.pack("<I", 0x400)
    coff = struct.pack("<4sHHIIIHH", b"PE\0\0", 0x8664, len(sections), 0, 0, 0, 240, 0x22)
    optional = bytearray(240)
    optional[:2] = struct.pack("<H", 0x20B)
    optional[32:40] = struct.pack("<II", 0x1000, 512)
    optional[60:64] = struct.pack("<I", 0x1000)
    optional[108:112] = struct.pack("<I", 16)
    table, body = b"", b""
    for name, content in sections.items():
        raw = content.ljust(-(-len(content) // 512) * 512, b"\0")
        table += struct.pack(
            "<8sIIIIIIHHI", name.encode(), len(content), 0, len(raw), 0x1000 + len(body), 0, 0, 0, 0, 0
        )
        body += raw
    image = coff + bytes(optional) + table
    headers[0x400 : 0x400 + len(image)] = image
    if setup:
        headers[0x1F1 : 0x1F1 + len(setup)] = setup
    return bytes(headers) + body


def linux() -> bytes:
    setup = bytearray(0x240 - 0x1F1)
    setup[0x202 - 0x1F1 : 0x208 - 0x1F1] = b"HdrS" + struct.pack("<H", 0x20F)
    setup[0x211 - 0x1F1] = 0x01
    setup[0x22C - 0x1F1 : 0x230 - 0x1F1] = struct.pack("<I", 0x7FFFFFFF)
    setup[0x236 - 0x1F1 : 0x238 - 0x1F1] = struct.pack("<H", 0x3F)
    return executable({".text": b"kernel code" * 90}, setup=bytes(setup))
