"""Decode large pictures in little memory: at a fraction of their size, and in strips."""

from __future__ import annotations

from PIL import Image

_FRACTIONS = (2, 4, 8)  # at which a JPEG can be decoded without its full pixels
_STRIP = 256  # rows


def decode_smaller(image: Image.Image, max_pixels: int) -> str | None:
    """Let a JPEG of more than `max_pixels` decode at 1/2, 1/4 or 1/8 of its sides; return the note, None if not done.

    A progressive JPEG is left as it is: its decoder holds all coefficients whatever the size of the result.
    """
    width, height = image.size
    if image.format != "JPEG" or image.info.get("progressive") or width * height <= max_pixels:
        return None
    for fraction in _FRACTIONS:
        across, down = width // fraction, height // fraction
        if min(across, down) >= 1 and -(-width // fraction) * -(-height // fraction) <= max_pixels:
            image.draft(image.mode, (across, down))
            return f"decoded at 1/{fraction} of its {width} x {height} pixels"
    return None


def over_white(image: Image.Image) -> Image.Image:
    """Composite an RGBA picture over white: RGB, in strips, which hold no second picture of four channels."""
    found = Image.new("RGB", image.size)
    for top in range(0, image.height, _STRIP):
        strip = image.crop((0, top, image.width, min(top + _STRIP, image.height)))
        found.paste(Image.alpha_composite(Image.new("RGBA", strip.size, "white"), strip).convert("RGB"), (0, top))
    return found
