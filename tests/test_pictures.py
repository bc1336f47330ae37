"""The normal form of pictures: like Pillow where Pillow is right, scaled, composited and turned where it is not."""

from __future__ import annotations

import base64
import http.server
import threading
import time
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import ExifTags, Image, ImageOps

import llava.pictures
from llava.pictures import load_image, load_image_from_base64, picture_size, to_rgb
from tests.damage import bomb, long_text

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::PIL.Image.DecompressionBombWarning")

SAME_FOLDER = settings(deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])


def noise(size: tuple[int, int] = (12, 8), seed: int = 0) -> Image.Image:
    width, height = size
    values = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(values)


def array(image: Image.Image) -> np.ndarray:
    return np.asarray(image).astype(int)


# ------------------------------------------------------------------------------------------------------------- colours


@pytest.mark.parametrize(
    "mode", ["1", "L", "P", "RGB", "RGBA", "LA", "PA", "RGBa", "La", "RGBX", "CMYK", "YCbCr", "HSV"]
)
def test_an_opaque_picture_is_what_pillow_makes_of_it(mode):
    step = {"La": "LA", "PA": "LA", "RGBa": "RGBA", "HSV": "RGB"}.get(mode, mode)
    image = noise().convert(step).convert(mode)
    expected = image.convert("LA" if mode == "La" else "RGBA" if mode == "RGBa" else mode).convert("RGB")
    assert to_rgb(image).mode == "RGB" and np.array_equal(array(to_rgb(image)), array(expected))


def test_an_rgb_picture_is_not_copied():
    image = noise()
    assert to_rgb(image) is image


@pytest.mark.parametrize("mode", ["RGBA", "LA", "PA", "RGBa", "La"])
@pytest.mark.parametrize("alpha", [0, 1, 128, 255])
def test_transparency_is_laid_on_white(mode, alpha):
    layer = Image.new("RGBA", (4, 4), (10, 10, 10, alpha))
    image = layer.convert("LA").convert(mode) if mode in ("LA", "La") else layer.convert(mode)
    expected = 255 + (10 - 255) * alpha / 255
    assert np.abs(array(to_rgb(image)) - expected).max() <= (1 if alpha in (0, 255, 128) else 3)


@pytest.mark.parametrize("mode", ["L", "RGB", "P", "1"])
def test_a_transparent_colour_of_a_png_is_white(tmp_path, mode):
    image = Image.new(mode, (4, 2), 0)
    image.paste(1 if mode in ("1", "P") else 200 if mode == "L" else (200, 200, 200), (2, 0, 4, 2))
    if mode == "P":
        image.putpalette([0, 0, 0, 200, 200, 200])
    image.save(tmp_path / "keyed.png", transparency=(0, 0, 0) if mode == "RGB" else 0)
    loaded = load_image(tmp_path / "keyed.png")
    assert loaded.getpixel((0, 0)) == (255, 255, 255)
    assert loaded.getpixel((3, 0)) == ((255,) * 3 if mode == "1" else (200,) * 3)


@pytest.mark.parametrize("suffix", ["png", "tif"])
@pytest.mark.parametrize("kind", ["<u2", ">u2"])
def test_grey_of_sixteen_bits_is_scaled(tmp_path, suffix, kind):
    values = np.linspace(0, 65535, 64 * 64).reshape(64, 64).astype(kind)
    Image.fromarray(values).save(tmp_path / f"grey.{suffix}")
    grey = array(load_image(tmp_path / f"grey.{suffix}"))
    assert np.array_equal(grey[..., 0], np.rint(values / 257)) and (grey == grey[..., :1]).all()


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (np.float32([0, 0.25, 1]), [0, 64, 255]),
        (np.float32([0, 100.4, 255]), [0, 100, 255]),
        (np.float32([0, 257, 65535]), [0, 1, 255]),
        (np.float32([-1, 0, 1]), [0, 128, 255]),
        (np.float32([0, 0, 1e30]), [0, 0, 255]),
        (np.float32([np.nan, np.inf, 1]), [0, 0, 255]),
        (np.float32([np.nan] * 3), [0, 0, 0]),
        (np.float32([-3] * 3), [0, 0, 0]),
        (np.int32([0, 1, 255]), [0, 1, 255]),
        (np.int32([0, 2570, 65535]), [0, 10, 255]),
        (np.int32([-(2**31), 0, 2**31 - 1]), [0, 128, 255]),
    ],
)
def test_grey_without_a_range_of_its_own_is_scaled(values, expected):
    assert array(to_rgb(Image.fromarray(values[None])))[0, :, 0].tolist() == expected


@pytest.mark.parametrize("mode", ["I", "F"])
def test_eight_bits_in_a_wider_mode_are_as_they_were(mode):
    grey = noise().convert("L")
    assert np.array_equal(array(to_rgb(grey.convert(mode))), array(grey.convert("RGB")))


# --------------------------------------------------------------------------------------------------------- orientation


@pytest.mark.parametrize("suffix", ["png", "tif", "webp", "jpg"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_is_what_a_viewer_shows(tmp_path, suffix, orientation):
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    file = tmp_path / f"phone.{suffix}"
    noise((80, 40)).save(file, exif=exif, **({"lossless": True} if suffix == "webp" else {}))
    with Image.open(file) as image:
        shown = ImageOps.exif_transpose(image)
    loaded = load_image(file)
    assert loaded.size == picture_size(file) == ((80, 40) if orientation < 5 else (40, 80))
    assert np.array_equal(array(loaded), array(shown.convert("RGB")))
    assert ImageOps.exif_transpose(loaded).size == loaded.size  # nobody turns it a second time


def test_damaged_exif_data_do_not_cost_the_picture(tmp_path):
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    content = exif.tobytes()
    for cut in range(len(content)):
        noise().save(tmp_path / "cut.png", exif=content[:cut] + b"\xff" * 3)
        assert sorted(load_image(tmp_path / "cut.png").size) == sorted(picture_size(tmp_path / "cut.png")) == [8, 12]


# ------------------------------------------------------------------------------------------------------------- damage


def cut(file: Path) -> None:
    noise().save(file)
    file.write_bytes(file.read_bytes()[:-60])


@pytest.mark.parametrize(
    ("write", "reason"),
    [
        (bomb, "exceeds limit"),
        (long_text, "too large"),
        (cut, "truncated"),
        (lambda file: bomb(file, 2**31 - 1), "exceeds limit"),
        (lambda file: file.write_bytes(b""), "no picture of a format"),
        (lambda file: file.write_text("<html>"), "no picture of a format"),
        (lambda file: file.mkdir(), "Is a directory"),
    ],
)
def test_what_is_no_readable_picture_is_a_value_error_that_names_it(tmp_path, write, reason):
    write(tmp_path / "bad.png")
    with pytest.raises(ValueError, match=rf"image '.*bad.png' cannot be read: .*{reason}"):
        load_image(tmp_path / "bad.png")


@pytest.mark.parametrize("read", [load_image, picture_size])
@pytest.mark.parametrize("name", ["gone.png", "a" * 300, "null\0byte"])
def test_a_file_that_cannot_be_opened_is_named(tmp_path, read, name):
    with pytest.raises((FileNotFoundError, ValueError), match=name[:4]):
        read(tmp_path / name)


@pytest.mark.parametrize("write", [bomb, long_text, lambda file: file.write_text("no picture")])
def test_a_size_that_cannot_be_read_is_a_value_error_too(tmp_path, write):
    write(tmp_path / "bad.png")
    with pytest.raises(ValueError, match="bad.png' cannot be read"):
        picture_size(tmp_path / "bad.png")


FORMATS = ["PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "PPM", "TGA", "ICO", "PCX", "SGI", "JPEG2000", "QOI", "MPO"]
CONTENTS: dict[str, bytes] = {}
for format_name in FORMATS:
    buffer = BytesIO()
    noise((40, 30)).save(buffer, format_name)
    CONTENTS[format_name] = buffer.getvalue()


@settings(SAME_FOLDER, max_examples=200)
@given(data=st.data(), kind=st.sampled_from(FORMATS))
def test_damage_is_a_value_error_and_nothing_else(tmp_path, monkeypatch, data, kind):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10**6)
    content = bytearray(CONTENTS[kind])
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, min(len(content), 300) - 1))] = data.draw(st.integers(0, 255))
    file = tmp_path / "damaged"
    file.write_bytes(content[: data.draw(st.sampled_from([len(content), len(content) // 2, 40]))])
    for read in (load_image, picture_size):
        try:
            read(file)
        except ValueError as error:
            assert "damaged" in str(error)


def test_base64_text():
    content = BytesIO()
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    Image.new("RGBA", (5, 4), (1, 2, 3, 0)).save(content, "PNG", exif=exif)
    picture = load_image_from_base64(base64.b64encode(content.getvalue()))
    assert picture.size == (4, 5) and picture.getpixel((0, 0)) == (255, 255, 255)
    for text in ("no picture", "=", base64.b64encode(b"no picture")):
        with pytest.raises(ValueError, match="in base64 text cannot be read"):
            load_image_from_base64(text)


# ------------------------------------------------------------------------------------------------------------ addresses


class Answers(http.server.BaseHTTPRequestHandler):
    """A server whose paths name what goes wrong."""

    def do_GET(self) -> None:  # noqa: N802  the name that http.server calls
        content = BytesIO()
        noise().save(content, "PNG")
        picture = content.getvalue()
        path = self.path.strip("/")
        if path == "status":
            self.wfile.write(b"nonsense\r\n\r\n")
            return
        if path == "missing":
            self.send_error(404)
            return
        self.send_response(302 if path == "redirect" else 200)
        self.send_header("Location", "file:///etc/hostname")
        self.send_header("Content-Type", "text/html" if path == "page" else "image/png")
        if path == "short":
            self.send_header("Content-Length", str(len(picture) + 7))
        self.end_headers()
        if path == "slow":
            for byte in picture:
                time.sleep(0.1)
                self.wfile.write(bytes([byte]))
        elif path != "redirect":
            self.wfile.write(b"<html>" if path == "page" else picture * 100 if path == "large" else picture)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answers)
    server.handle_error = lambda *_: None  # a client that hangs up is what is tested
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize("scheme", ["http", "HTTP", "Http"])
def test_a_picture_behind_an_address(address, scheme):
    assert np.array_equal(array(load_image(f"{scheme}{address[4:]}/a.png")), array(noise()))


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("page", "a page of HTML"),
        ("missing", "404"),
        ("status", "nonsense"),
        ("short", "7 bytes before the end"),
        ("redirect", "Redirection to url .file:"),
        ("a b", "control characters"),
        ("large", "larger than 0 MiB"),
        ("slow", "longer than 0.5 seconds"),
    ],
)
def test_an_address_without_a_picture_is_a_value_error_that_names_it(address, monkeypatch, path, reason):
    monkeypatch.setattr(llava.pictures, "LARGEST_DOWNLOAD", 10**4)
    monkeypatch.setattr(llava.pictures, "LONGEST_DOWNLOAD", 0.5)
    with pytest.raises(ValueError, match=rf"{address}/{path}' cannot be read: .*{reason}"):
        load_image(f"{address}/{path}")


def test_no_server():
    with pytest.raises(ValueError, match="http://127.0.0.1:9/a.png' cannot be read"):
        load_image("http://127.0.0.1:9/a.png")
