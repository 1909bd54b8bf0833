"""Pictures as model inputs: decode, orient, resize and crop, with the geometry that maps back to the original.

`open_image` converts any picture to upright 8-bit RGB and notes each conversion; `prepare` converts it to a model's
input tensor, with the `Geometry` that maps values of the model's input back to the original picture.
"""

import io
import math
import os
import re
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import ExifTags, Image, UnidentifiedImageError, features
from torch import Tensor

from ..base.named import require
from ..base.notes import Note
from .decoding import decode_smaller, over_white
from .geometry import Geometry as Geometry

ImageSource = str | os.PathLike[str] | bytes | Image.Image | NDArray[Any]

FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF", *(("AVIF",) if features.check("avif") else ()))
SUFFIXES = (".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".avif")
"""The ends of the names of pictures in a folder; a file given by itself may have any."""
MAX_PIXELS = 100_000_000
_DARK = 2**13  # of 65535; a picture whose values all lie below may have fewer bits than its file

# What Pillow's decoders raise on damaged files. MemoryError and all others have another cause and are raised as they
# are. tests/test_images.py checks the list with mutated files.
_DECODER_ERRORS = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    LookupError,
    TypeError,
    OverflowError,
    RuntimeError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
    Image.DecompressionBombWarning,
)

_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

GREY_REPEATED = "grey repeated into three channels"

_FILTERS = {name: Image.Resampling[name.upper()] for name in ("nearest", "bilinear", "bicubic", "lanczos")}


class ImageError(ValueError):
    """A picture that can't be used; the message names it, the fault and what would work."""


@dataclass(frozen=True)
class Picture:
    """An upright 8-bit RGB picture, with a note for each conversion that was made."""

    image: Image.Image
    notes: tuple[str, ...] = ()
    name: str = "picture"

    @property
    def cautions(self) -> tuple[Note, ...]:
        """The notes that limit the trust in the picture."""
        return tuple(note for note in self.notes if isinstance(note, Note) and note.is_caution)


def open_image(
    source: ImageSource,
    *,
    name: str | None = None,
    max_pixels: int = MAX_PIXELS,
    formats: tuple[str, ...] = FORMATS,
    white: float | None = None,
) -> Picture:
    """Decode a path, the bytes of a file, a PIL picture or an array into an upright RGB `Picture`.

    Arrays are (H, W), (H, W, 1), (H, W, 3) or (H, W, 4): uint8, uint16, bool, or floating in [0, 1]. The size
    is read from the header, and checked against `max_pixels`, before anything is decoded; a JPEG beyond it is decoded
    at 1/2, 1/4 or 1/8 of its sides, with a note, unless it is progressive. Of an animation the first frame is taken.
    `name` is the picture's name in errors, by default the path. No other formats than `formats` are tried on files and
    bytes. `white` is the value of white where a channel has more than 8 bits, such as 4095 for 12 bits in a file of 16;
    by default 65535, or 1 for floating pixels. A picture whose largest value is far below gets a caution among its
    notes.

    Raises ImageError for anything that isn't a sound picture, TypeError for a source of another type.
    """
    if white is not None and not white > 0:  # written so that NaN fails too
        raise ValueError(f"white: {white}; use the value of white in the file, such as 4095 for 12 bits")
    if isinstance(source, str) and is_url(source):
        raise ImageError(f"{source}: a URL, and limelight downloads nothing; save the picture and give its file")
    match source:
        case np.ndarray():
            name = name or f"array of shape {source.shape}"
            return _convert(*_from_array(source, name, max_pixels, white), name)
        case Image.Image():
            name = name or str(source.info.get("filename") or getattr(source, "filename", "") or "picture")
            return _decode(source, name, max_pixels, white)
        case bytes():
            name = name or f"{len(source):,} bytes"
        case str() | os.PathLike():
            name = name or str(Path(source))
        case _:
            kind = type(source).__name__
            raise TypeError(f"source is a {kind}; pass a path, bytes, a PIL.Image.Image or a numpy array")
    with _opened(source, name, formats) as opened:
        return _decode(opened, name, max_pixels, white)


def _opened(source: str | os.PathLike[str] | bytes, name: str, formats: tuple[str, ...]) -> Image.Image:
    """Read the header of a file or of its bytes. Raises ImageError."""
    try:
        return Image.open(io.BytesIO(source) if isinstance(source, bytes) else Path(source), formats=formats)
    except UnidentifiedImageError as error:
        raise ImageError(f"{name}: not a picture in a format read here ({', '.join(formats)})") from error
    except FileNotFoundError as error:
        raise ImageError(f"{name}: no such file") from error
    except Image.DecompressionBombError as error:
        raise ImageError(f"{name}: {error}; scale it down first") from error
    except _DECODER_ERRORS as error:
        raise ImageError(f"{name}: can't be opened: {_reason(error)}") from error


def is_url(text: str) -> bool:
    """Return whether a text is a URL such as `https://...`."""
    return re.match(r"[A-Za-z][A-Za-z0-9+.-]+://", text) is not None


def _reason(error: BaseException) -> str:
    return f"{error} ({type(error).__name__})" if str(error) else type(error).__name__


def _check_budget(width: int, height: int, name: str, max_pixels: int) -> None:
    if width < 1 or height < 1:
        raise ImageError(f"{name}: {width} x {height} pixels; both sides must be at least 1")
    if width * height > max_pixels:
        raise ImageError(
            f"{name}: {width} x {height} is {width * height / 1e6:,.1f} megapixels, over the limit of "
            f"{max_pixels / 1e6:,.1f}; scale it down first, or raise max_pixels"
        )


def _from_array(array: NDArray[Any], name: str, max_pixels: int, white: float | None) -> tuple[Image.Image, list[str]]:
    """Convert an array to a PIL picture of mode L, RGB or RGBA, with notes on its conversion."""
    pixels = array[..., 0] if array.ndim == 3 and array.shape[2] == 1 else array
    if pixels.ndim != 2 and not (pixels.ndim == 3 and pixels.shape[2] in (3, 4)):
        hint = "; move the channels last" if array.ndim == 3 and array.shape[0] in (1, 3, 4) else ""
        raise ImageError(f"{name}: expected shape (H, W), (H, W, 1), (H, W, 3) or (H, W, 4){hint}")
    _check_budget(pixels.shape[1], pixels.shape[0], name, max_pixels)
    notes: list[str] = []
    if pixels.dtype == np.uint16 or np.issubdtype(pixels.dtype, np.floating):
        pixels, notes = _eight_bits(pixels, name, white)
    elif pixels.dtype == np.bool_:
        pixels, notes = pixels.astype(np.uint8) * 255, ["two-level picture made black and white"]
    elif pixels.dtype != np.uint8:
        raise ImageError(f"{name}: dtype {pixels.dtype}; pass uint8, uint16, bool, or floating in [0, 1]")
    return Image.fromarray(np.ascontiguousarray(pixels)), notes


def _eight_bits(values: NDArray[Any], name: str, white: float | None) -> tuple[NDArray[np.uint8], list[str]]:
    """Scale numbers in [0, `white`] to 8 bits, with notes; white is 1 for floating ones, else 65535 (255 * 257)."""
    low, high = values.min(), values.max()
    floating = np.issubdtype(values.dtype, np.floating)
    if not (low >= 0 and high <= (white or (1 if floating else 65535))):  # written so that NaN fails too
        kind, most = ("floating-point", "[0, 1]") if floating else ("whole-number", "0...65535")
        run = f"{float(low):g} to {float(high):g}" if floating else f"{low} to {high}"
        cure = f"scale them into {most} first" if white is None else f"white={white:g} must be as large as the largest"
        raise ImageError(f"{name}: {kind} pixels run from {run}; {cure}")
    if white is not None:
        return np.rint(values * (255 / white)).astype(np.uint8), [f"values up to white={white:g} scaled to 8 bits"]
    if floating:
        return np.rint(values * 255).astype(np.uint8), ["floating-point pixels rounded to 8 bits"]
    notes = [_SCALED, *_too_dark(int(high))]
    return ((values.astype(np.uint32) + 128) // 257).astype(np.uint8), notes


_SCALED = "16 bits a channel scaled to 8"


def _too_dark(high: int) -> list[str]:
    """Return a caution on the largest of 16-bit values where it suggests a channel of fewer bits."""
    if not 0 < high < _DARK:
        return []
    likely = 2 ** max(8, high.bit_length()) - 1
    return [
        Note(
            "caution", f"the largest value is {high} of 65535, nearly black: if white is {likely}, give white={likely}"
        )
    ]


def _decode(image: Image.Image, name: str, max_pixels: int, white: float | None) -> Picture:
    smaller = decode_smaller(image, max_pixels)
    _check_budget(*image.size, name, max_pixels)
    notes: list[str] = [smaller] if smaller else []
    # Pillow scales these to 8 bits while it decodes.
    scaled = any(";16" in str(tile) for tile in getattr(image, "tile", ())) and not _is_single_wide(image.mode)
    if scaled and white is not None:
        raise ImageError(
            f"{name}: white={white:g} fits no colour file of 16 bits, which Pillow reads at 8; give its pixels as an "
            "array (H, W, 3) of uint16"
        )
    try:
        if getattr(image, "is_animated", False):
            notes.append("the first frame of several was taken")
        orientation = image.getexif().get(ExifTags.Base.Orientation)
        image.load()
        if _is_single_wide(image.mode):
            image, found = _narrow(image, name, white)
            notes += found
        if scaled:
            colours = min(3, len(image.getbands()))  # without alpha
            brightest = max(int(image.getchannel(band).getextrema()[1]) for band in range(colours))  # type: ignore[arg-type]
            notes += [_SCALED, *_too_dark(257 * brightest)]
        if orientation in _UPRIGHT:
            # Pillow rotates a TIFF while it loads, and then removes the tag.
            if ExifTags.Base.Orientation in image.getexif():
                image = image.transpose(_UPRIGHT[orientation])
            notes.append(f"turned upright (EXIF orientation {orientation})")
        return _convert(image, notes, name)
    except ImageError:
        raise
    except _DECODER_ERRORS as error:
        raise ImageError(f"{name}: damaged or truncated: {_reason(error)}; export it again, as PNG or JPEG") from error


def _is_single_wide(mode: str) -> bool:
    """Whether it has one channel of more than 8 bits, which Pillow's `convert` would clip at 255."""
    return mode in ("I", "F") or mode.startswith("I;16")


def _narrow(image: Image.Image, name: str, white: float | None) -> tuple[Image.Image, list[str]]:
    eight, notes = _eight_bits(np.asarray(image), name, white)
    narrow = Image.fromarray(eight)
    narrow.info = {key: value for key, value in image.info.items() if key == "exif"}
    if "transparency" in image.info:
        notes.append("its transparent level ignored")
    return narrow, notes


def _convert(image: Image.Image, notes: list[str], name: str) -> Picture:
    """Convert to RGB from any mode of at most 8 bits a channel."""
    if image.mode in ("P", "PA"):
        notes.append("palette expanded")
    elif image.mode in ("1", "L", "LA", "La"):
        notes.append(GREY_REPEATED)
    elif image.mode not in ("RGB", "RGBA", "RGBa", "RGBX"):
        notes.append(f"{image.mode} converted without a colour profile")
    rgb = None
    if image.has_transparency_data:
        image = image if image.mode == "RGBA" else image.convert("RGBA")
        if image.getchannel("A").getextrema() == (255, 255):
            notes.append("alpha channel dropped (opaque everywhere)")
        else:
            notes.append("alpha composited over white")
            rgb = over_white(image)
    if rgb is None:
        rgb = image.convert("RGB")  # a copy: the picture may be the caller's, or its file about to be closed
    rgb.info = {}  # an orientation left there would rotate the picture again
    return Picture(rgb, tuple(notes), name)


@dataclass(frozen=True)
class Preprocessing:
    """A model's input: its sides, the share of the resized picture that it covers, its normalisation.

    `size`: both sides in pixels, or (height, width). The picture keeps its proportions, is resized until it covers
    size / crop_fraction, and cropped around its centre; `squash` resizes each side to size / crop_fraction by itself.
    `mean` and `std` are of pixels in [0, 1] and have one number for each channel: three for red, green and blue, one
    for grey, n for tensors of n bands. The defaults leave pixels unchanged.
    """

    size: int | tuple[int, int] = 224
    crop_fraction: float = 0.875
    interpolation: str = "bicubic"
    mean: tuple[float, ...] = (0.0, 0.0, 0.0)
    std: tuple[float, ...] = (1.0, 1.0, 1.0)
    squash: bool = False

    def __post_init__(self) -> None:
        for name in ("size", "mean", "std"):
            if isinstance(getattr(self, name), list):  # as it is read from JSON
                object.__setattr__(self, name, tuple(getattr(self, name)))
        sides = self.size if isinstance(self.size, tuple) else (self.size, self.size)
        sound = len(sides) == 2 and all(isinstance(side, int) and side >= 1 for side in sides)
        require(sound, self, "size", "a whole number of 1 or more, or two of them (height, width)")
        require(0 < self.crop_fraction <= 1, self, "crop_fraction", "a number above 0, up to 1")
        require(self.interpolation in _FILTERS, self, "interpolation", f"one of {', '.join(_FILTERS)}")
        require(len(self.mean) >= 1, self, "mean", "a number for each channel")
        wanted = f"a number above 0 for each of {len(self.mean)} channels"
        require(len(self.std) == len(self.mean) and min(self.std) > 0, self, "std", wanted)

    @property
    def sides(self) -> tuple[int, int]:
        """Height and width."""
        return self.size if isinstance(self.size, tuple) else (self.size, self.size)

    @property
    def channels(self) -> int:
        return len(self.mean)

    @property
    def shape(self) -> torch.Size:
        """The shape of one input, (channels, height, width)."""
        return torch.Size((self.channels, *self.sides))


def prepare(picture: Picture, preprocessing: Preprocessing = Preprocessing()) -> tuple[Tensor, Geometry]:
    """Resize the picture to cover size / crop_fraction, crop the centre: (1, channels, H, W) float32 in [0, 1].

    Antialiased by Pillow, with the rounding of torchvision's and timm's evaluation; for one channel the colours are
    weighted as by Pillow's "L". Not normalised yet. Raises ImageError for other numbers of channels than 1 and 3.
    """
    if preprocessing.channels not in (1, 3):
        shape = ", ".join(map(str, (1, *preprocessing.shape)))
        raise ImageError(
            f"{picture.name}: a picture has 3 channels and the model takes {preprocessing.channels} channels; "
            f"pass a tensor ({shape}) to explain()"
        )
    image = picture.image if preprocessing.channels == 3 else picture.image.convert("L")
    (height, width), (original_width, original_height) = preprocessing.sides, image.size
    down, across = (round(side / preprocessing.crop_fraction) for side in (height, width))
    resized = across, down
    if not preprocessing.squash:
        scaled = _floored if height == width else _rounded  # as torchvision and timm, and timm
        if across * original_height >= down * original_width:
            resized = across, scaled(across * original_height, original_width)
        else:
            resized = scaled(down * original_width, original_height), down
    left, top = round((resized[0] - width) / 2), round((resized[1] - height) / 2)
    geometry = Geometry(image.size, resized, (left, top, left + width, top + height))
    pixels = np.array(_resize_and_crop(image, geometry, _FILTERS[preprocessing.interpolation]))
    channels_last = torch.from_numpy(pixels.reshape(height, width, -1))
    return channels_last.permute(2, 0, 1).unsqueeze(0).float().div(255).contiguous(), geometry


def _floored(length: int, by: int) -> int:
    return length // by


def _rounded(length: int, by: int) -> int:
    return round(length / by)


def _resize_and_crop(image: Image.Image, geometry: Geometry, resample: Image.Resampling) -> Image.Image:
    """Resize only what the crop needs: a 1 x 10,000 picture would otherwise become 256 x 2,560,000 first."""
    left, top, right, bottom = geometry.crop
    window: list[tuple[int, int]] = []
    for start, stop, resized, original in (
        (left, right, geometry.resized[0], geometry.original[0]),
        (top, bottom, geometry.resized[1], geometry.original[1]),
    ):
        # Pillow's widest filter reaches three pixels of the coarser grid.
        margin = math.ceil(3 * max(1.0, resized / original)) + 1
        elongated = resized > 16 * (stop - start) + 2 * margin
        window.append((max(0, start - margin), min(resized, stop + margin)) if elongated else (0, resized))
    (x0, x1), (y0, y1) = window
    across, down = geometry.original[0] / geometry.resized[0], geometry.original[1] / geometry.resized[1]
    box = (x0 * across, y0 * down, min(image.width, x1 * across), min(image.height, y1 * down))
    seen = image.resize((x1 - x0, y1 - y0), resample, box=box)
    return seen.crop((left - x0, top - y0, right - x0, bottom - y0))
