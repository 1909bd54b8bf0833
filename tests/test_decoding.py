"""Large pictures in little memory: JPEGs at a fraction, alpha in strips."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from PIL import Image

import limelight as ll
from limelight.models.decoding import over_white
from limelight.models.pictures import ImageError

pytestmark = pytest.mark.quick


def jpeg(size: tuple[int, int], **options: object) -> bytes:
    noise = torch.rand(size[1] // 50, size[0] // 50, 3, generator=torch.Generator().manual_seed(0))
    image = Image.fromarray((255 * noise).byte().numpy()).resize(size, Image.Resampling.BICUBIC)
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=95, **options)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("most", "size", "fraction"), [(120_000, (200, 151), 2), (30_000, (100, 76), 4), (2_000, (50, 38), 8)]
)
def test_a_jpeg_beyond_the_limit_is_decoded_smaller(most: int, size: tuple[int, int], fraction: int) -> None:
    data = jpeg((400, 301))
    picture = ll.open_image(data, max_pixels=most)
    assert picture.image.size == size
    assert f"decoded at 1/{fraction} of its 400 x 301 pixels" in picture.notes
    whole = ll.open_image(data).image.resize(size, Image.Resampling.BOX)
    assert np.abs(np.asarray(picture.image, float) - np.asarray(whole, float)).mean() < 4  # of 255


def test_a_jpeg_within_the_limit_is_decoded_whole() -> None:
    data = jpeg((400, 300))
    picture = ll.open_image(data, max_pixels=120_000)
    assert picture.image.size == (400, 300) and picture.notes == ()
    assert np.array_equal(np.asarray(picture.image), np.asarray(Image.open(io.BytesIO(data))))


@pytest.mark.parametrize("data", [jpeg((400, 300), progressive=True), jpeg((4000, 3000))], ids=["progressive", "large"])
def test_what_cannot_be_decoded_smaller_is_refused(data: bytes) -> None:
    with pytest.raises(ImageError, match="megapixels, over the limit of"):
        ll.open_image(data, max_pixels=100_000)


def test_strips_over_white_are_the_whole_picture_over_white() -> None:
    pixels = torch.randint(0, 256, (700, 31, 4), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    image = Image.fromarray(pixels.numpy(), "RGBA")
    expected = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    assert over_white(image).tobytes() == expected.tobytes()
