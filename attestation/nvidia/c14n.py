"""XML as reference manifests use it: a bounded tree, and Canonical XML 1.1 of it (without comments).

A document type, processing instructions, CDATA sections, ``xml:`` attributes and undeclared prefixes are
outside this profile and refused, so that nothing expands and every name means one thing. What remains of
Canonical XML 1.1 (https://www.w3.org/TR/xml-c14n11/) for a whole document or a subtree is done here.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final, NamedTuple
from xml.parsers import expat

from attestation.nvidia.errors import RimError

MAX_DOCUMENT = 256 * 1024
"""Bytes of a document at most; NVIDIA's have about 20 kB."""

MAX_ELEMENTS = 1024
MAX_DEPTH = 16
MAX_ATTRIBUTES = 128
MAX_DECLARATIONS = 32
"""Namespace declarations in a document at most."""

_NO_SCOPE: Final[Mapping[str, str]] = MappingProxyType({})


class Attribute(NamedTuple):
    """An attribute: its name as written, its namespace ("" for none), its local name and its value."""

    name: str
    namespace: str
    local: str
    value: str


@dataclass(frozen=True, slots=True, eq=False)
class Shape:
    """What elements of the same name, attribute names and scope have in common.

    ``places`` says by namespace and local name where among the values an attribute has its own, ``counts``
    how many attributes are of a namespace; ``opening`` holds the text before each value in canonical order,
    with the value's place.
    """

    name: str
    namespace: str
    local: str
    scope: Mapping[str, str]
    names: tuple[str, ...]
    places: Mapping[tuple[str, str], int]
    counts: Mapping[str, int]
    opening: tuple[tuple[str, int], ...]


@dataclass(slots=True, eq=False)
class Element:
    """An element: its shape, and the values of its attributes in the order of the document.

    ``children`` are elements and texts in order; comments leave no trace but ``commented``.
    """

    shape: Shape
    values: Sequence[str]
    children: list["Element | str"] = field(default_factory=list)
    commented: bool = False

    @property
    def namespace(self) -> str:
        """The element's namespace ("" for none)."""
        return self.shape.namespace

    @property
    def local(self) -> str:
        """The element's name without its prefix."""
        return self.shape.local

    @property
    def attributes(self) -> tuple[Attribute, ...]:
        """The attributes in the order of the document; namespace declarations are none."""
        shape, values = self.shape, self.values
        return tuple(
            Attribute(shape.names[place], namespace, local, values[place])
            for (namespace, local), place in shape.places.items()
        )

    @property
    def elements(self) -> list["Element"]:
        """The child elements."""
        return [child for child in self.children if isinstance(child, Element)]

    @property
    def text(self) -> str:
        """The element's own text."""
        return "".join([child for child in self.children if isinstance(child, str)])

    def attribute(self, local: str, namespace: str = "") -> str | None:
        """The value of an attribute, or None."""
        place = self.shape.places.get((namespace, local))
        return None if place is None else self.values[place]

    def count(self, namespace: str) -> int:
        """How many attributes are of this namespace."""
        return self.shape.counts.get(namespace, 0)


def parse_document(data: bytes) -> Element:
    """Parse a document in UTF-8; the root element.

    Raises `RimError`: ``rim_malformed`` for what is not well-formed or too large, ``rim_profile`` for what is
    outside the profile.
    """
    if len(data) > MAX_DOCUMENT:
        raise malformed(f"document of {len(data)} bytes, at most {MAX_DOCUMENT}")
    builder = _Builder()
    try:
        builder.parser().Parse(data, True)
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
    _render(apex, _NO_SCOPE, without, pieces)
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
        self._shapes: dict[tuple[str, tuple[str, ...], int], Shape] = {}

    def parser(self) -> expat.XMLParserType:
        """A parser that builds here. It is not kept: a cycle of the two would keep the tree alive after use."""
        # The encoding is given, so that a declared one cannot make another document of the same bytes.
        parser = expat.ParserCreate("utf-8")
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
        return parser

    def _start(self, name: str, attributes: list[str]) -> None:
        self._elements += 1
        if self._elements > MAX_ELEMENTS or len(self._open) >= MAX_DEPTH:
            raise malformed("too many elements, or too deep")
        if len(attributes) > 2 * MAX_ATTRIBUTES:
            raise malformed("too many attributes")
        outer = self._open[-1].shape.scope if self._open else _NO_SCOPE
        names, values = tuple(attributes[0::2]), attributes[1::2]
        # The elements that were met hold their scopes, so that no other has its id meanwhile.
        key = (name, names, id(outer))
        shape = self._shapes.get(key)
        if shape is None:
            scope = self._scope(outer, names, values)
            shape = self._shape(name, names, scope)
            if scope is outer:
                self._shapes[key] = shape
        element = Element(shape, values)
        if self._open:
            self._open[-1].children.append(element)
        else:
            self.root = element
        self._open.append(element)

    def _scope(
        self, outer: Mapping[str, str], names: Sequence[str], values: Sequence[str]
    ) -> Mapping[str, str]:
        """The scope with what is declared here; ``outer`` itself where nothing is."""
        declared: dict[str, str] = {}
        for name, value in zip(names, values, strict=True):
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

    def _shape(self, element: str, names: tuple[str, ...], scope: Mapping[str, str]) -> Shape:
        element_prefix, element_local = self._split(element)
        element_namespace = _namespace(element_prefix, scope)
        places: dict[tuple[str, str], int] = {}
        counts: dict[str, int] = {}
        declared = 0
        for place, name in enumerate(names):
            prefix, local = self._split(name)
            if prefix == "xmlns" or name == "xmlns":
                declared += 1
                continue
            if prefix == "xml":
                raise outside_profile("an attribute of the xml namespace")
            namespace = _namespace(prefix, scope) if prefix else ""
            places[namespace, local] = place
            counts[namespace] = counts.get(namespace, 0) + 1
        if len(places) + declared != len(names):
            raise malformed("an attribute occurs twice")
        opening = tuple((f' {names[place]}="', place) for _, place in sorted(places.items()))
        return Shape(
            name=element,
            namespace=element_namespace,
            local=element_local,
            scope=scope,
            names=names,
            places=places,
            counts=counts,
            opening=opening,
        )

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
    shape, values = element.shape, element.values
    out.append(f"<{shape.name}")
    if shape.scope is not rendered:
        for prefix in sorted(shape.scope):
            namespace = shape.scope[prefix]
            if rendered.get(prefix, "") != namespace:
                out.append(f' xmlns{":" if prefix else ""}{prefix}="{_value(namespace)}"')
    # One search for all values: hardly any has a character that is written as a reference.
    if shape.opening and _SPECIAL.search("".join(values)) is not None:
        values = [_value(value) for value in values]
    out += [f'{before}{values[place]}"' for before, place in shape.opening]
    out.append(">")
    for child in element.children:
        if isinstance(child, str):
            out.append(_content(child))
        elif child is not without:
            _render(child, shape.scope, without, out)
    out.append(f"</{shape.name}>")


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
