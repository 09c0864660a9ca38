"""File extensions of images: those that the installed Pillow reads by itself, in this process."""

from PIL import Image

_NOT_PIXELS = {"BUFR", "GRIB", "HDF5", "IPTC"}
"""Containers of which Pillow can read only the header."""
_NEEDS_A_PROGRAM = {"EPS", "MPEG", "WMF"}
"""Formats that need another program: Ghostscript for PostScript, Windows for metafiles, a player
for films."""
_ALWAYS = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif")


def _endings() -> tuple[str, ...]:
    """The usual extensions first, then the others in alphabetical order."""
    # Pillow tries formats in the order in which they were loaded, and a JPEG should be tried as one
    # before twenty other formats.
    Image.preinit()
    Image.init()
    readable = set(Image.OPEN) - _NOT_PIXELS - _NEEDS_A_PROGRAM
    registered = Image.registered_extensions()
    others = {ending for ending, name in registered.items() if name in readable}
    return (*_ALWAYS, *sorted(others - set(_ALWAYS)))


EXTENSIONS: tuple[str, ...] = _endings()
"""File extensions of images, in lower case, with the dot."""

USUAL_ENDINGS = " ".join(_ALWAYS)
"""The usual extensions, for messages."""

PICTURES_UNREAD = frozenset(
    [
        ".heic",
        ".heif",
        ".hif",
        ".avif",
        ".avifs",
        ".jxl",
        ".jp2",
        ".webp",
        ".raw",
        ".cr2",
        ".cr3",
        ".nef",
        ".nrw",
        ".arw",
        ".dng",
        ".orf",
        ".rw2",
        ".raf",
        ".pef",
        ".srw",
        ".dcm",
        ".exr",
    ]
) - frozenset(EXTENSIONS)
"""Extensions of pictures that cannot be read here; a class with only such files would vanish."""


def is_image(name: str) -> bool:
    """True if the extension is an image's. Hidden files, such as `._a.jpg` of macOS, are no
    images."""
    return not name.startswith(".") and name.lower().endswith(EXTENSIONS)


def ending_of(name: str) -> str:
    """Extension of a file name in lower case, such as ".jpg"; empty if there is none."""
    stem, dot, ending = name.rpartition(".")
    if not stem or not dot:
        return ""
    return f".{ending.lower()}"
