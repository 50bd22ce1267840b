"""What the documents name exists: links, headings, files, tests, programs, and the numbers that come from code."""

import ast
import importlib
import importlib.util
import re
from dataclasses import fields
from itertools import chain
from pathlib import Path

import pytest

from client_sdk.errors import PolicyError
from client_sdk.policy import Policy
from enclave_runtime.admission import AdmissionLimits
from enclave_runtime.engine.engine_config import EngineConfig
from enclave_runtime.exit_codes import ExitCode

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = sorted(chain(ROOT.glob("*.md"), ROOT.glob("docs/*.md")))
OPERATING = (ROOT / "docs" / "operating.md").read_text()


def anchors(document: Path) -> set[str]:
    """The names by which a page's headings are linked, as GitHub makes them."""
    titles = re.findall(r"^#+ (.*)$", document.read_text(), re.MULTILINE)
    return {
        re.sub(r"[^\w\- ]", "", title.replace("`", "").strip().lower()).replace(" ", "-") for title in titles
    }


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_link_leads_somewhere(document: Path) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", document.read_text()):
        if link.startswith(("http://", "https://")):
            continue
        path, _, anchor = link.partition("#")
        target = (document.parent / path).resolve() if path else document
        assert target.exists(), link
        if anchor:
            assert anchor in anchors(target), link


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_program_and_test_that_is_named_is_there(document: Path) -> None:
    text = document.read_text()
    for module in re.findall(r"python -m (benchmarks\.\w+)", text):
        assert (ROOT / f"{module.replace('.', '/')}.py").is_file(), module
    for test in re.findall(r"`(?:tests/[\w/]+/)?(test_\w+\.py)", text):
        assert next(ROOT.glob(f"tests/**/{test}"), None), test


def test_every_page_is_in_the_readme() -> None:
    readme = (ROOT / "README.md").read_text()
    for page in ROOT.glob("docs/*.md"):
        assert f"(docs/{page.name})" in readme or f"(docs/{page.name}#" in readme, page.name


@pytest.mark.parametrize("settings", [EngineConfig, AdmissionLimits])
def test_the_operators_page_has_every_setting_with_its_default(settings: type) -> None:
    for setting in fields(settings):
        assert f"`{setting.name}` {setting.default}" in OPERATING


def test_the_operators_page_has_every_exit_status() -> None:
    listed = {
        int(number)
        for row in re.findall(r"^\| ([0-9, ]+) \|", OPERATING, re.MULTILINE)
        for number in row.split(",")
    }
    assert listed - {159} == {int(code) for code in ExitCode}


def test_the_policy_tables_that_users_read_of_are_known() -> None:
    """A table that a policy may not have would be refused as an unknown key."""
    text = (ROOT / "docs" / "client.md").read_text()
    named = set(re.findall(r"`\[(\w+)\]`", text))
    assert named == {"cpu", "gpu", "transparency", "runtime", "fleet", "simulated"}
    for name in named:
        with pytest.raises(
            PolicyError, match="transparency"
        ):  # what is missing, and not a key that is unknown
            Policy.parse(f'version = 1\nname = "x"\n[{name}]\n'.encode())


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_example_in_python_reads_and_names_what_there_is(document: Path) -> None:
    for block in re.findall(r"```python\n(.*?)```", document.read_text(), re.DOTALL):
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.ImportFrom) and (ROOT / str(node.module).partition(".")[0]).is_dir():
                module = importlib.import_module(str(node.module))
                for name in node.names:
                    submodule = f"{node.module}.{name.name}"
                    assert hasattr(module, name.name) or importlib.util.find_spec(submodule), submodule
