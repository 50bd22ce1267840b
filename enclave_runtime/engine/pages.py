"""Paged KV memory with an owner on every page.

A page holds the keys and values of ``page_tokens`` positions of one sequence, for all layers. It belongs to
one owner from `allocate` to `release`; every step checks that before it touches a page, and a page that was
ever written is overwritten with zeros before anyone else can get it.
"""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import DTypeLike

from enclave_runtime.engine.aligned import aligned_zeros
from enclave_runtime.engine.errors import PageOwnershipError, PagesExhausted

FREE = 0


@dataclass(slots=True)
class PageTable:
    """The pages of one sequence in order of position: int64 page numbers. ``owner`` is positive."""

    owner: int
    pages: np.ndarray
    first: int = field(init=False)  # first page if they follow one another, else -1

    def __post_init__(self) -> None:
        consecutive = len(self.pages) > 0 and bool(np.all(np.diff(self.pages) == 1))
        self.first = int(self.pages[0]) if consecutive else -1


class PagePool:
    """The book of a decoder's KV pages: who owns which, and which were written. A subclass knows where they lie, the
    decoder how keys and values lie within a page. Not thread-safe: only the engine's thread touches it.
    """

    page_bytes = 0
    """Bytes of a page as `read_page` gives it; 0 where pages cannot be taken out of the pool."""

    def __init__(self, pages: int, page_tokens: int) -> None:
        self.page_tokens = page_tokens
        self._owners = np.full(pages, FREE, dtype=np.int64)
        self._written = np.zeros(pages, dtype=np.bool_)

    @property
    def total_pages(self) -> int:
        return len(self._owners)

    @property
    def free_pages(self) -> int:
        return int(np.count_nonzero(self._owners == FREE))

    def owner_of(self, page: int) -> int:
        """Who owns ``page``; `FREE` for nobody."""
        return int(self._owners[page])

    def pages_for(self, tokens: int) -> int:
        return -(-tokens // self.page_tokens)

    def allocate(self, owner: int, tokens: int) -> PageTable:
        """Give ``owner`` room for ``tokens`` positions. Raises `PagesExhausted` and then changes nothing.

        Pages that follow one another are preferred, because attention can then read them in place.
        """
        if owner <= FREE:
            raise PageOwnershipError("owner out of range", expected="a positive number")
        count = self.pages_for(tokens)
        free = np.flatnonzero(self._owners == FREE)
        if count < 1 or len(free) < count:
            raise PagesExhausted("KV pages", expected=count, found=len(free))
        runs = np.flatnonzero(free[count - 1 :] - free[: len(free) - count + 1] == count - 1)
        start = int(runs[0]) if len(runs) else 0
        chosen = free[start : start + count].astype(np.int64)
        self._owners[chosen] = owner
        return PageTable(owner, chosen)

    def release(self, table: PageTable) -> None:
        """Overwrite what was written and hand the pages back. The table is empty afterwards."""
        self.check(table)
        self.zero(table.pages[self._written[table.pages]])
        self._written[table.pages] = False
        self._owners[table.pages] = FREE
        table.pages = np.empty(0, dtype=np.int64)
        table.first = -1

    def zero(self, pages: np.ndarray) -> None:
        """Overwrite ``pages`` with zeros."""
        raise NotImplementedError

    def zero_all(self) -> None:
        """Overwrite everything with zeros."""
        raise NotImplementedError

    def copy_page(self, taken: int, given: int) -> None:
        """Write one page into another, whoever owns them; `copy` is what checks that."""
        raise NotImplementedError

    def read_page(self, page: int, out: np.ndarray) -> None:
        """Write what ``page`` holds into ``out``, uint8 [`page_bytes`], whoever owns it."""
        raise NotImplementedError

    def write_page(self, page: int, data: np.ndarray) -> None:
        """Make ``page`` hold ``data`` (from `read_page` of this pool), whoever owns it."""
        raise NotImplementedError

    def clear(self) -> None:
        """Overwrite everything and forget all owners: for an engine that ends in disorder."""
        self.zero_all()
        self._written[:] = False
        self._owners[:] = FREE

    def check(self, table: PageTable) -> None:
        """Raise `PageOwnershipError` unless every page of ``table`` belongs to its owner."""
        if (
            table.owner <= FREE
            or len(table.pages) == 0
            or not np.all(self._owners[table.pages] == table.owner)
        ):
            raise PageOwnershipError("KV page of another owner")

    def check_span(self, table: PageTable, start: int, count: int) -> None:
        """Raise `PageOwnershipError` unless ``table`` owns its pages and they hold positions ``start`` ..
        ``start + count - 1``. The pages of those count as written from here on.
        """
        self.check(table)
        if start < 0 or count < 1 or start + count > len(table.pages) * self.page_tokens:
            raise PageOwnershipError("position beyond the pages of a sequence", found=start + count)
        first, last = start // self.page_tokens, (start + count - 1) // self.page_tokens
        self._written[table.pages[first : last + 1]] = True

    def copy(self, source: PageTable, target: PageTable, pages: int, *, first: int = 0) -> None:
        """Write pages ``first`` .. ``pages - 1`` of ``source`` into those of ``target``; both stay who they were."""
        self.check(source)
        if pages > len(source.pages):
            raise PageOwnershipError("more pages than a sequence has", found=pages)
        if first >= pages:
            self.check(target)
            return
        self.check_span(target, first * self.page_tokens, (pages - first) * self.page_tokens)
        for taken, given in zip(source.pages[first:pages], target.pages[first:pages], strict=True):
            self.copy_page(int(taken), int(given))


class ArrayPages(PagePool):
    """Pages in one array, ``storage``: ``dtype`` [layers, 2, pages, page_tokens, kv heads, head size]."""

    def __init__(
        self,
        *,
        layers: int,
        kv_heads: int,
        head_dim: int,
        pages: int,
        page_tokens: int,
        dtype: DTypeLike = np.float32,
    ) -> None:
        super().__init__(pages, page_tokens)
        self.storage = aligned_zeros((layers, 2, pages, page_tokens, kv_heads, head_dim), dtype)
        self.page_bytes = self.storage.nbytes // pages if pages else 0

    def zero(self, pages: np.ndarray) -> None:
        for page in pages:
            self.storage[:, :, int(page)] = 0

    def zero_all(self) -> None:
        self.storage.fill(0)

    def copy_page(self, taken: int, given: int) -> None:
        self.storage[:, :, given] = self.storage[:, :, taken]

    def read_page(self, page: int, out: np.ndarray) -> None:
        taken = self.storage[:, :, page]
        out.view(taken.dtype).reshape(taken.shape)[...] = taken

    def write_page(self, page: int, data: np.ndarray) -> None:
        given = self.storage[:, :, page]
        given[...] = data.view(given.dtype).reshape(given.shape)
