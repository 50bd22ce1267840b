"""XML as reference manifests use it: a bounded tree, and Canonical XML 1.1 of it (without comments).

A document type, processing instructions, CDATA sections, ``xml:`` attributes and undeclared prefixes are
outside this profile and refused, so that nothing expands and every name means one thing. What remains of
Canonical XML 1.1 (https://www.w3.org/TR/xml-c14n11/) for a whole document or a subtree is done here.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from xml.parsers import expat

from attestation.nvidia.errors import RimError

MAX_DOCUMENT = 256 * 1024
"""Bytes of a document at most; NVIDIA's have about 20 kB."""

MAX_ELEMENTS = 1024
MAX_DEPTH = 16
MAX_ATTRIBUTES = 128
MAX_DECLARATIONS = 32
"""Namespace declarations in a document at most."""


@dataclass(frozen=True, slots=True)
class Attribute:
    """An attribute: its name as written, its namespace ("" for none), its local name and its value."""

    name: str
    namespace: str
    local: str
    value: str


@dataclass(slots=True, eq=False)
class Element:
    """An element. ``scope`` maps every prefix in scope ("" for the default) to its namespace.

    ``children`` are elements and texts in order; comments leave no trace but ``commented``.
    """

    name: str
    namespace: str
    local: str
    attributes: tuple[Attribute, ...]
    scope: Mapping[str, str]
    children: list["Element | str"] = field(default_factory=list)
    commented: bool = False

    @property
    def elements(self) -> list["Element"]:
        """The child elements."""
        return [child for child in self.children if isinstance(child, Element)]

    @property
    def text(self) -> str:
        """The element's own text."""
        return "".join(child for child in self.children if isinstance(child, str))

    def attribute(self, local: str, namespace: str = "") -> str | None:
        """The value of an attribute, or None."""
        for attribute in self.attributes:
            if attribute.local == local and attribute.namespace == namespace:
                return attribute.value
        return None


def parse_document(data: bytes) -> Element:
    """Parse a document in UTF-8; the root element.

    Raises `RimError`: ``rim_malformed`` for what is not well-formed or too large, ``rim_profile`` for what is
    outside the profile.
    """
    if len(data) > MAX_DOCUMENT:
        raise malformed(f"document of {len(data)} bytes, at most {MAX_DOCUMENT}")
    builder = _Builder()
    try:
        builder.parser.Parse(data, True)
    except expat.ExpatError as error:
        raise malformed(f"not well-formed XML: {expat.errors.messages.get(error.code, 'error')}") from None
    if builder.root is None:
        raise malformed("no root element")
    return builder.root


def canonical(apex: Element, *, without: Element | None = None) -> bytes:
    """Canonical XML 1.1 of the subtree at ``apex``, leaving out the child ``without`` with all below it.

    For a root element this is the canonical document; below the root, the apex carries every namespace in
    its scope, as inclusive canonicalisation has it.
    """
    pieces: list[str] = []
    _render(apex, MappingProxyType({}), without, pieces)
    return "".join(pieces).encode("utf-8")


def malformed(detail: str) -> RimError:
    """A manifest that cannot be read."""
    return RimError(code="rim_malformed", stage="gpu.measurements", detail=detail)


def outside_profile(detail: str) -> RimError:
    """A manifest that uses XML or XML signatures otherwise than NVIDIA does."""
    return RimError(code="rim_profile", stage="gpu.measurements", detail=detail)


class _Builder:
    """Builds the tree; refuses before it stores."""

    def __init__(self) -> None:
        self.root: Element | None = None
        self._open: list[Element] = []
        self._elements = 0
        self._declarations = 0
        self._names: dict[str, tuple[str, str]] = {}  # the same few names recur in every element
        # The encoding is given, so that a declared one cannot make another document of the same bytes.
        self.parser = parser = expat.ParserCreate("utf-8")
        parser.buffer_text = True
        parser.ordered_attributes = True
        parser.StartElementHandler = self._start
        parser.EndElementHandler = self._end
        parser.CharacterDataHandler = self._text
        parser.CommentHandler = self._comment
        parser.XmlDeclHandler = self._declaration
        parser.StartDoctypeDeclHandler = self._doctype
        parser.ProcessingInstructionHandler = self._instruction
        parser.StartCdataSectionHandler = self._cdata

    def _start(self, name: str, attributes: list[str]) -> None:
        self._elements += 1
        if self._elements > MAX_ELEMENTS or len(self._open) >= MAX_DEPTH:
            raise malformed("too many elements, or too deep")
        if len(attributes) > 2 * MAX_ATTRIBUTES:
            raise malformed("too many attributes")
        pairs = list(zip(attributes[0::2], attributes[1::2], strict=True))
        scope = self._scope(pairs)
        prefix, local = self._split(name)
        element = Element(
            name=name,
            namespace=_namespace(prefix, scope),
            local=local,
            attributes=self._attributes(pairs, scope),
            scope=scope,
        )
        if self._open:
            self._open[-1].children.append(element)
        else:
            self.root = element
        self._open.append(element)

    def _scope(self, pairs: list[tuple[str, str]]) -> Mapping[str, str]:
        outer: Mapping[str, str] = self._open[-1].scope if self._open else {}
        declared: dict[str, str] = {}
        for name, value in pairs:
            if name == "xmlns":
                declared[""] = value
            elif name.startswith("xmlns:"):
                prefix = name[6:]
                if prefix in ("", "xml", "xmlns") or ":" in prefix or not value:
                    raise outside_profile("a namespace declaration that is not allowed")
                declared[prefix] = value
        if not declared:
            return outer
        self._declarations += len(declared)
        if self._declarations > MAX_DECLARATIONS:
            raise malformed("too many namespace declarations")
        return {**outer, **declared}

    def _attributes(self, pairs: list[tuple[str, str]], scope: Mapping[str, str]) -> tuple[Attribute, ...]:
        attributes: dict[tuple[str, str], Attribute] = {}
        for name, value in pairs:
            prefix, local = self._split(name)
            if prefix == "xmlns" or name == "xmlns":
                continue
            if prefix == "xml":
                raise outside_profile("an attribute of the xml namespace")
            namespace = _namespace(prefix, scope) if prefix else ""
            attributes[namespace, local] = Attribute(name, namespace, local, value)
        declared = sum(name == "xmlns" or name.startswith("xmlns:") for name, _ in pairs)
        if len(attributes) + declared != len(pairs):
            raise malformed("an attribute occurs twice")
        return tuple(attributes.values())

    def _split(self, name: str) -> tuple[str, str]:
        """Prefix and local name."""
        found = self._names.get(name)
        if found is None:
            found = self._names[name] = _split(name)
        return found

    def _end(self, _name: str) -> None:
        self._open.pop()

    def _text(self, text: str) -> None:
        self._open[-1].children.append(text)

    def _comment(self, _text: str) -> None:
        if self._open:
            self._open[-1].commented = True

    def _declaration(self, _version: str, encoding: str | None, _standalone: int) -> None:
        if encoding is not None and encoding.upper() != "UTF-8":
            raise outside_profile("another encoding than UTF-8")

    def _doctype(self, *_args: object) -> None:
        raise outside_profile("a document type")

    def _instruction(self, *_args: object) -> None:
        raise outside_profile("a processing instruction")

    def _cdata(self) -> None:
        raise outside_profile("a CDATA section")


def _split(name: str) -> tuple[str, str]:
    prefix, colon, local = name.rpartition(":")
    if ":" in prefix or not local or (colon and not prefix):
        raise malformed("a name with colons in odd places")
    return prefix, local


def _namespace(prefix: str, scope: Mapping[str, str]) -> str:
    if prefix and prefix not in scope:
        raise malformed("a namespace prefix that is not declared")
    return scope.get(prefix, "")


def _render(element: Element, rendered: Mapping[str, str], without: Element | None, out: list[str]) -> None:
    out.append(f"<{element.name}")
    if element.scope is not rendered:
        for prefix in sorted(element.scope):
            namespace = element.scope[prefix]
            if rendered.get(prefix, "") != namespace:
                out.append(f' xmlns{":" if prefix else ""}{prefix}="{_value(namespace)}"')
    for attribute in sorted(element.attributes, key=lambda item: (item.namespace, item.local)):
        out.append(f' {attribute.name}="{_value(attribute.value)}"')
    out.append(">")
    for child in element.children:
        if isinstance(child, str):
            out.append(_content(child))
        elif child is not without:
            _render(child, element.scope, without, out)
    out.append(f"</{element.name}>")


def _content(text: str) -> str:
    if "&" in text or "<" in text or ">" in text or "\r" in text:
        text = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").replace("\r", "&#xD;")
    return text


def _value(text: str) -> str:
    if _SPECIAL.search(text) is not None:
        for character, reference in _VALUE_REFERENCES:
            text = text.replace(character, reference)
    return text


_SPECIAL = re.compile(r'[&<"\t\n\r]')
_VALUE_REFERENCES = (
    ("&", "&amp;"),
    ("<", "&lt;"),
    ('"', "&quot;"),
    ("\t", "&#x9;"),
    ("\n", "&#xA;"),
    ("\r", "&#xD;"),
)
