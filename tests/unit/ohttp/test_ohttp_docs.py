"""The examples in docs/ohttp.md run as they stand, and its limits are those of the code."""

import re
from pathlib import Path

from ohttp import chunked, errors, fields, keyconfig

PAGE = (Path(__file__).resolve().parents[3] / "docs" / "ohttp.md").read_text()


def test_the_examples_run_one_after_the_other() -> None:
    blocks = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    assert len(blocks) == 4
    names: dict[str, object] = {}
    for block in blocks:
        exec(compile(block, "docs/ohttp.md", "exec"), names)  # noqa: S102


def test_the_limits_are_those_of_the_code() -> None:
    assert (chunked.MAX_CHUNK, chunked.MAX_REQUEST, chunked.MAX_RESPONSE) == (16_384, 1 << 20, 64 << 20)
    limits = fields.Limits()
    assert (limits.control, limits.section, limits.fields) == (16 << 10, 64 << 10, 256)
    assert (limits.content, limits.pieces) == (64 << 20, 1_048_576)
    assert keyconfig.MAX_LIST_SIZE == 64 << 10


def test_every_family_of_errors_is_named() -> None:
    families = {
        kind.__name__ for kind in errors.OhttpError.__subclasses__() if kind.__module__ == "ohttp.errors"
    }
    assert {name for name in families if f"`{name}`" not in PAGE} == set()
