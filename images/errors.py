"""What building or checking an image can go wrong with, by name."""


class ImageError(Exception):
    """An image could not be built, read or verified.

    ``code`` names the reason and is stable; ``path`` is the file concerned, relative to the image's root
    where it lies in one; ``expected`` and ``found`` are the two sides of a comparison that failed; ``advice`` says
    what to do next, in lines.
    """

    def __init__(
        self,
        code: str,
        detail: str,
        *,
        path: str | None = None,
        expected: object = None,
        found: object = None,
        advice: str = "",
    ) -> None:
        self.code = code
        self.detail = detail
        self.path = path
        self.expected = expected
        self.found = found
        self.advice = advice
        super().__init__(f"{code}: {detail}" + (f" ({path})" if path is not None else ""))


class ManifestError(ImageError):
    """``image.json`` is malformed, oversized or not in its canonical form."""


class ImageMismatch(ImageError):
    """A tree is not what its manifest says: a file is missing, added, changed or of another kind."""


class ClosureError(ImageError):
    """The installed distributions cannot give a complete, unmodified set of files."""


class InterpreterError(ImageError):
    """This Python cannot be carried in an image."""


class InputError(ImageError):
    """An input of a virtual-machine image is malformed, or not the one that its lock names."""


class InputChanged(InputError):
    """Under the name of a locked input somebody has other bytes."""


class InputUnavailable(ImageError):
    """A locked input can no longer be had from where it was asked for."""


class RecipeError(ImageError):
    """A recipe or a lock file is malformed, or asks for what cannot be done."""


class CensusError(ImageError):
    """An image holds something that its recipe forbids, or lacks what it demands."""


class VolumeError(ImageError):
    """A file system or hash tree cannot be written as asked, or is not what it should be."""


class MachineError(ImageError):
    """A virtual machine could not be started, or did not come up."""
