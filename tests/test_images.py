"""Pictures of every kind decode to the right pixels, damaged ones raise one error, maps find their way."""

import io
import random
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, features

from limelight.base.notes import Note
from limelight.models.pictures import Geometry, ImageError, Picture, Preprocessing, open_image, prepare


def encode(image: Image.Image, format: str = "PNG", **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


def pixel(picture: Picture, x: int = 0, y: int = 0) -> tuple[int, ...]:
    value = picture.image.getpixel((x, y))
    assert isinstance(value, tuple)
    return value


def noise(width: int, height: int, seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8))


def quadrants() -> Image.Image:
    """6 x 4 with a red upper left corner on blue."""
    image = Image.new("RGB", (6, 4), "blue")
    image.paste("red", (0, 0, 3, 2))
    return image


def test_each_kind_of_source_gives_the_same_pixels(tmp_path: Path) -> None:
    image = noise(7, 5)
    path = tmp_path / "a.png"
    image.save(path)
    for source in (path, str(path), path.read_bytes(), Image.open(path), image, np.asarray(image)):
        picture = open_image(source)
        assert picture.image.mode == "RGB"
        assert picture.notes == ()
        np.testing.assert_array_equal(np.asarray(picture.image), np.asarray(image))
    assert open_image(path).name == str(path)
    assert open_image(path, name="upload").name == "upload"


def test_the_callers_picture_is_left_alone() -> None:
    image = quadrants()
    image.getexif()[274] = 6
    open_image(image).image.putpixel((0, 0), (1, 2, 3))
    assert image.size == (6, 4) and image.getpixel((0, 0)) == (255, 0, 0)


@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied_once(format: str, orientation: int) -> None:
    back = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }
    upright = quadrants().resize((48, 32), Image.Resampling.NEAREST)
    stored = upright.transpose(back[orientation]) if orientation != 1 else upright
    exif = Image.Exif()
    exif[274] = orientation
    options: dict[str, object] = {"lossless": True} if format == "WEBP" else {}
    picture = open_image(encode(stored, format, exif=exif, **options))
    error = np.abs(np.asarray(picture.image).astype(int) - np.asarray(upright).astype(int))
    assert picture.image.size == (48, 32) and np.median(error) <= 1 and (error > 120).mean() < 0.02
    assert ("EXIF" in " ".join(picture.notes)) == (orientation != 1)
    assert open_image(picture.image).notes == ()


@pytest.mark.parametrize(
    "source, expected, note",
    [
        (Image.new("L", (2, 2), 77), (77, 77, 77), "grey"),
        (Image.new("1", (2, 2), 1), (255, 255, 255), "grey"),
        (Image.new("LA", (2, 2), (0, 0)), (255, 255, 255), "composited over white"),
        (Image.new("RGBA", (2, 2), (255, 0, 0, 0)), (255, 255, 255), "composited over white"),
        (Image.new("RGBA", (2, 2), (255, 0, 0, 51)), (255, 204, 204), "composited over white"),
        (Image.new("RGBA", (2, 2), (9, 8, 7, 255)), (9, 8, 7), "opaque"),
        (Image.new("RGB", (2, 2), (9, 8, 7)).quantize(2), (9, 8, 7), "palette"),
        (Image.new("CMYK", (2, 2), (0, 255, 255, 0)), (255, 0, 0), "CMYK"),
        (Image.new("YCbCr", (2, 2), (200, 128, 128)), (200, 200, 200), "YCbCr"),
        (Image.new("HSV", (2, 2), (0, 255, 255)), (255, 0, 0), "HSV"),
        (Image.fromarray(np.full((2, 2), 32896, np.uint16)), (128, 128, 128), "16 bits"),
        (Image.fromarray(np.full((2, 2), 32896, np.int32)), (128, 128, 128), "16 bits"),
        (Image.fromarray(np.full((2, 2), 0.5, np.float32)), (128, 128, 128), "floating"),
        (np.full((2, 2, 3), 32896, np.uint16), (128, 128, 128), "16 bits"),
        (np.full((2, 2, 4), [1.0, 0.0, 0.0, 0.0]), (255, 255, 255), "composited over white"),
        (np.full((2, 2, 1), True), (255, 255, 255), "black and white"),
        (np.zeros((4, 2, 3), np.uint8)[::2], (0, 0, 0), ""),
    ],
    ids=lambda value: f"{value.mode}" if isinstance(value, Image.Image) else None,
)
def test_modes(source: Image.Image | np.ndarray, expected: tuple[int, ...], note: str) -> None:
    picture = open_image(source)
    assert pixel(picture) == expected
    assert note in "; ".join(picture.notes)


@pytest.mark.parametrize("format", ["PNG", "TIFF"])
def test_sixteen_bit_files_are_scaled_not_clipped(format: str) -> None:
    ramp = np.array([[0, 128, 129, 32896, 65407, 65535]], np.uint16)
    picture = open_image(encode(Image.fromarray(ramp), format))
    assert [pixel(picture, x)[0] for x in range(6)] == [0, 0, 1, 128, 255, 255]
    assert "16 bits" in picture.notes[0]


def test_transparent_palette_and_animation() -> None:
    frames = [Image.new("RGB", (4, 4), colour).quantize(4) for colour in ("red", "blue")]
    gif = encode(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert pixel(open_image(gif)) == (255, 0, 0)
    assert any("first frame" in note for note in open_image(gif).notes)
    see_through = encode(frames[0], "PNG", transparency=frames[0].getpixel((0, 0)))
    assert pixel(open_image(see_through)) == (255, 255, 255)


@pytest.mark.parametrize(
    "source, words",
    [
        (b"", "not a picture"),
        (b"<svg></svg>", "PNG, JPEG"),
        (encode(noise(64, 64))[:3000], "truncated"),
        (encode(noise(64, 64), "JPEG")[:1500], "truncated"),
        (np.zeros((3, 8, 9), np.uint8), "channels last"),
        (np.zeros((0, 8), np.uint8), "at least 1"),
        (np.zeros((8, 8), np.int64), "int64"),
        (np.full((8, 8), 200.0), r"\[0, 1\]"),
        (np.full((8, 8), np.nan), "nan"),
        (Image.fromarray(np.full((2, 2), -5, np.int32)), "-5"),
        (Path("/nowhere/cat.png"), "/nowhere/cat.png: no such file"),
        (Path("/"), "directory"),
    ],
    # The address of a PIL picture would make each process collect another test.
    ids=lambda each: type(each).__name__ if isinstance(each, Image.Image) else str(each),
)
def test_errors_name_the_trouble(source: bytes | np.ndarray, words: str) -> None:
    with pytest.raises(ImageError, match=words):
        open_image(source)


def test_other_sources_are_a_type_error() -> None:
    with pytest.raises(TypeError, match="list"):
        open_image([1, 2, 3])  # type: ignore[arg-type]


def test_the_budget_is_checked_before_decoding(monkeypatch: pytest.MonkeyPatch) -> None:
    bomb = encode(Image.new("1", (9000, 9000)))

    def refuse(self: Image.Image) -> None:
        raise AssertionError("decoded")

    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", refuse)
    with pytest.raises(ImageError, match=r"81.0 megapixels.*max_pixels"):
        open_image(bomb, max_pixels=80_000_000)


def test_a_header_that_lies_is_a_bomb() -> None:
    png = bytearray(encode(noise(8, 8)))
    png[16:24] = (200_000).to_bytes(4, "big") * 2
    import zlib

    png[29:33] = zlib.crc32(png[12:29]).to_bytes(4, "big")
    with pytest.raises(ImageError, match="scale it down"):
        open_image(bytes(png))


def seeds() -> list[bytes]:
    small = noise(20, 14)
    exif = Image.Exif()
    exif[274] = 6
    return [
        encode(small),
        encode(small.quantize(16), "PNG", transparency=1),
        encode(Image.fromarray(np.arange(280, dtype=np.uint16).reshape(14, 20))),
        encode(small, "JPEG", exif=exif),
        encode(small.convert("CMYK"), "JPEG"),
        encode(small, "JPEG", progressive=True),
        encode(small, "WEBP"),
        encode(small.convert("RGBA"), "WEBP", lossless=True),
        encode(small, "BMP"),
        encode(small.quantize(16), "GIF", save_all=True, append_images=[noise(20, 14, 1).quantize(8)]),
        encode(small, "TIFF"),
        encode(small, "TIFF", compression="tiff_lzw"),
        encode(small, "TIFF", compression="tiff_adobe_deflate"),
    ]


@pytest.mark.parametrize("index", range(len(seeds())))
def test_damaged_files_raise_nothing_but_image_errors(index: int) -> None:
    seed = seeds()[index]
    rng = random.Random(index)
    outcomes = set()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for _ in range(400):
            data = bytearray(seed)
            for _ in range(rng.choice((1, 2, 8))):
                # Half of the changes hit the header, where the structure is.
                position = rng.randrange(min(len(data), 64) if rng.random() < 0.5 else len(data))
                data[position] = rng.randrange(256)
            if rng.random() < 0.2:
                del data[rng.randrange(len(data)) :]
            try:
                picture = open_image(bytes(data), max_pixels=1_000_000)
            except ImageError as error:
                assert "bytes: " in str(error)
                outcomes.add("refused")
            else:
                assert picture.image.mode == "RGB"
                outcomes.add("read")
    assert "refused" in outcomes


def test_prepare_gives_unit_pixels() -> None:
    tensor, geometry = prepare(open_image(noise(300, 200)))
    assert tensor.shape == (1, 3, 224, 224) and tensor.dtype == torch.float32
    assert tensor.min() >= 0 and tensor.max() <= 1
    assert geometry == Geometry((300, 200), (384, 256), (80, 16, 304, 240))


@pytest.mark.parametrize("width, height", [(1, 1), (1, 10_000), (30_000, 2), (3, 2), (1000, 999)])
def test_prepare_at_the_extremes(width: int, height: int) -> None:
    tensor, geometry = prepare(open_image(Image.new("RGB", (width, height), (10, 20, 30))))
    assert torch.allclose(tensor.amax((2, 3)) * 255, torch.tensor([[10.0, 20.0, 30.0]]))
    assert torch.equal(tensor.amax((2, 3)), tensor.amin((2, 3)))
    back = geometry.to_original(torch.full((2, 224, 224), 3.0, dtype=torch.float64))
    assert back.shape == (2, height, width)
    assert back.isfinite().any() and torch.all(back[back.isfinite()].sub(3).abs() < 1e-12)


def test_an_elongated_picture_is_resized_as_a_whole_one_would_be() -> None:
    picture = open_image(noise(4000, 40))
    tensor, geometry = prepare(picture, Preprocessing(64))
    whole = picture.image.resize(geometry.resized, Image.Resampling.BICUBIC).crop(geometry.crop)
    expected = torch.from_numpy(np.array(whole)).permute(2, 0, 1)
    assert geometry.resized == (7300, 73)
    assert (tensor[0] * 255 - expected).abs().max() <= 1.001


@pytest.mark.parametrize(
    "fields", [{"size": 0}, {"crop_fraction": 1.2}, {"interpolation": "x"}, {"std": (1.0, 0.0, 1.0)}], ids=str
)
def test_preprocessing_names_a_wrong_setting(fields: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(fields))}.*use"):
        Preprocessing(**fields)


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
@pytest.mark.parametrize("x, y", [(300, 200), (330, 150), (250, 260)])
def test_a_marked_pixel_comes_back_to_its_place(orientation: int, x: int, y: int) -> None:
    image = Image.new("RGB", (600, 420))
    image.paste("white", (x - 2, y - 2, x + 3, y + 3))
    exif = Image.Exif()
    exif[274] = orientation
    picture = open_image(encode(image, exif=exif))
    tensor, geometry = prepare(picture)
    back = geometry.to_original(tensor.mean(1))[0]
    assert back.shape == (picture.image.height, picture.image.width)
    row, column = divmod(int(back.nan_to_num(0).argmax()), back.shape[1])
    brightness = np.asarray(picture.image).mean(2)
    assert brightness[row, column] == 255


def test_to_original_is_nan_outside_the_crop_only() -> None:
    geometry = Geometry((100, 50), (512, 256), (144, 16, 368, 240))
    left, top, right, bottom = geometry.original_box()
    assert (left, top, right, bottom) == (28.125, 3.125, 71.875, 46.875)
    inside = geometry.to_original(torch.ones(224, 224)).isfinite()
    rows, columns = inside.any(1).nonzero().flatten(), inside.any(0).nonzero().flatten()
    assert (int(columns[0]), int(columns[-1]) + 1) == (28, 72)
    assert (int(rows[0]), int(rows[-1]) + 1) == (3, 47)
    assert inside.sum() == 44 * 44


def test_to_original_is_the_identity_without_a_resize() -> None:
    values = torch.randn(2, 3, 8, 8, dtype=torch.float64)
    assert torch.equal(Geometry((8, 8), (8, 8), (0, 0, 8, 8)).to_original(values), values)


def test_to_original_interpolates_like_torch() -> None:
    values = torch.randn(1, 1, 7, 7, dtype=torch.float64)
    ours = Geometry((224, 224), (224, 224), (0, 0, 224, 224)).to_original(values)
    theirs = torch.nn.functional.interpolate(values, (224, 224), mode="bilinear", align_corners=False)
    assert torch.allclose(ours, theirs, atol=1e-12)
    smaller = Geometry((10, 10), (256, 256), (0, 0, 256, 256)).to_original(torch.randn(1, 1, 64, 64).double())
    assert smaller.shape == (1, 1, 10, 10) and smaller.abs().max() < 0.8  # averaged, not picked


@pytest.mark.parametrize("values", [torch.zeros(3), torch.zeros(4, 4, dtype=torch.int64)])
def test_to_original_names_a_wrong_map(values: torch.Tensor) -> None:
    with pytest.raises(ValueError, match="floating"):
        Geometry((4, 4), (4, 4), (0, 0, 4, 4)).to_original(values)


def twelve_bits(format: str) -> bytes:
    """Grey 0, 816 ... 4080 in a file of 16 bits: black, a fifth, ... almost white where white is 4095."""
    return encode(Image.fromarray(np.array([[0, 816, 1632, 2448, 3264, 4080]], np.uint16)), format)


@pytest.mark.parametrize("format", ["PNG", "TIFF"])
def test_twelve_bits_in_a_file_of_sixteen_are_a_caution_and_can_be_said(format: str) -> None:
    dark = open_image(twelve_bits(format))
    assert [pixel(dark, x)[0] for x in range(6)] == [0, 3, 6, 10, 13, 16]
    (caution,) = (note for note in dark.notes if isinstance(note, Note) and note.is_caution)
    assert caution == "the largest value is 4080 of 65535, nearly black: if white is 4095, give white=4095"
    said = open_image(twelve_bits(format), white=4095)
    assert [pixel(said, x)[0] for x in range(6)] == [0, 51, 102, 152, 203, 254]
    assert not any(isinstance(note, Note) and note.is_caution for note in said.notes)
    assert "values up to white=4095 scaled to 8 bits" in said.notes


@pytest.mark.parametrize(
    ("largest", "likely"), [(0, None), (1, 255), (256, 511), (4096, 8191), (8191, 8191), (8192, None), (65535, None)]
)
def test_from_which_value_on_a_picture_of_sixteen_bits_is_dark(largest: int, likely: int | None) -> None:
    values = np.array([[0, largest]], np.uint16)
    for source in (values, np.repeat(values[..., None], 3, 2), encode(Image.fromarray(values))):
        notes = [note for note in open_image(source).notes if isinstance(note, Note) and note.is_caution]
        assert [note.endswith(f"give white={likely}") for note in notes] == [True] * (likely is not None)


def test_white_of_other_kinds_of_pixels() -> None:
    assert pixel(open_image(np.array([[0.0, 2.0]]), white=4), 1) == (128, 128, 128)
    assert pixel(open_image(np.full((1, 1, 3), 1023, np.uint16), white=1023)) == (255, 255, 255)
    assert pixel(open_image(np.full((1, 1), 77, np.uint8), white=4095)) == (77, 77, 77)  # 8 bits are as they are
    with pytest.raises(ImageError, match="run from 0 to 5000; white=4095 must be as large as the largest"):
        open_image(np.array([[0, 5000]], np.uint16), white=4095)
    for white in (0, -1, float("nan")):
        with pytest.raises(ValueError, match=r"white: .* such as 4095"):
            open_image(np.zeros((1, 1), np.uint16), white=white)


def test_sixteen_bit_colour_png_says_so() -> None:
    picture = open_image(colour_of_sixteen_bits(65535))
    assert pixel(picture) == (255, 0, 0) and picture.notes == ("16 bits a channel scaled to 8",)


@pytest.mark.parametrize("value", [15, 31, 32])
def test_dark_colour_of_sixteen_bits(value: int) -> None:
    """Pillow gives 8 bits of them."""
    png = colour_of_sixteen_bits(257 * value)
    cautions = [note for note in open_image(png).notes if isinstance(note, Note) and note.is_caution]
    assert len(cautions) == (value < 32)
    with pytest.raises(ImageError, match="which Pillow reads at 8; give its pixels as an array"):
        open_image(png, white=4095)


def colour_of_sixteen_bits(value: int) -> bytes:
    import struct
    import zlib

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    rows, header = b"\0" + struct.pack(">3H", value, 0, 0), struct.pack(">IIBBBBB", 1, 1, 16, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def test_avif_where_pillow_has_it() -> None:
    if not features.check("avif"):
        pytest.skip("this Pillow reads no AVIF")
    image = quadrants().resize((48, 32), Image.Resampling.NEAREST)
    exif = Image.Exif()
    exif[274] = 6  # turned by a quarter to the right
    picture = open_image(encode(image, "AVIF", exif=exif, quality=100, subsampling="4:4:4"))
    expected = image.transpose(Image.Transpose.ROTATE_270)
    assert picture.image.size == expected.size
    assert np.median(np.abs(np.asarray(picture.image).astype(int) - np.asarray(expected))) <= 2


def test_nothing_is_downloaded() -> None:
    for url in ("https://example.org/cat.png", "s3://bucket/cat.png", "file:///cat.png"):
        with pytest.raises(ImageError, match=f"{url}: a URL, and limelight downloads nothing"):
            open_image(url)
