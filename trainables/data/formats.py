"""Endings of image files: those that the installed Pillow reads by itself, in this process."""

from PIL import Image

_NOT_PIXELS = {"BUFR", "GRIB", "HDF5", "IPTC"}
"""Containers of which Pillow knows the head alone."""
_NEEDS_A_PROGRAM = {"EPS", "MPEG", "WMF"}
"""PostScript runs a program of its own (Ghostscript), Windows draws metafiles, films need a
player."""
_ALWAYS = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif")


def _endings() -> tuple[str, ...]:
    """The usual endings first, the others in alphabetical order."""
    # Pillow tries formats in the order in which they were loaded: a JPEG is to be tried as one
    # before twenty others.
    Image.preinit()
    Image.init()
    readable = set(Image.OPEN) - _NOT_PIXELS - _NEEDS_A_PROGRAM
    registered = Image.registered_extensions()
    others = {ending for ending, name in registered.items() if name in readable}
    return (*_ALWAYS, *sorted(others - set(_ALWAYS)))


EXTENSIONS: tuple[str, ...] = _endings()
"""Endings of images, in lower case and with their dot."""

USUAL_ENDINGS = " ".join(_ALWAYS)
"""The usual ones, for messages."""

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
"""Endings of pictures that cannot be read here: a class that has nothing else would vanish."""


def is_image(name: str) -> bool:
    """Tells an image by its ending; hidden files, such as the `._a.jpg` of macOS, are none."""
    return not name.startswith(".") and name.lower().endswith(EXTENSIONS)


def ending_of(name: str) -> str:
    """The ending of a file name in lower case, ".jpg"; empty where there is none."""
    stem, dot, ending = name.rpartition(".")
    if not stem or not dot:
        return ""
    return f".{ending.lower()}"
