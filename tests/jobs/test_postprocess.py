from __future__ import annotations

from io import BytesIO

import pytest
from PIL import Image

from core import images
from jobs.worker.postprocess import check, postprocess
from photoslot.demo_scene import draw_scene
from providers.base import AmbiguousError, OperationSettings, Output, PermanentError, Picture, Reason

pytestmark = pytest.mark.unit

GREEN = (0, 200, 0)


def picture(image: Image.Image, format: images.Format = "png") -> Picture:
    return Picture(images.encode(image, format, 92), images.MIME_TYPES[format])


def frame(size: tuple[int, int], border: int = 10) -> Picture:
    image = Image.new("RGBA", size, (*GREEN, 255))
    image.paste((0, 0, 0, 0), (border, border, size[0] - border, size[1] - border))
    return picture(image)


PHOTO = draw_scene(300, 200)
JPEG = picture(PHOTO, "jpeg")


def test_without_wishes_the_bytes_stay() -> None:
    assert postprocess(JPEG, OperationSettings(), {}) == JPEG


def test_the_type_is_read_from_the_bytes() -> None:
    assert postprocess(Picture(JPEG.data, "image/png"), OperationSettings(), {}).mime_type == "image/jpeg"


@pytest.mark.parametrize("output", [Output(), Output(width=300, height=200), Output(height=200, quality=50)])
def test_what_is_already_as_wished_is_not_encoded_again(output: Output) -> None:
    assert postprocess(JPEG, OperationSettings(output=output), {}) == JPEG


@pytest.mark.parametrize(
    "output",
    [
        Output(width=180, height=120),
        Output(width=120, height=180, fit="contain", format="png"),
        Output(width=600, height=600, format="webp"),
    ],
)
def test_the_print_has_the_exact_size_and_format(output: Output) -> None:
    header = images.probe(postprocess(JPEG, OperationSettings(output=output), {}).data)
    assert (header.width, header.height) == (output.width, output.height)
    assert header.mime_type == images.MIME_TYPES[output.format]


def test_a_picture_lying_on_its_side_is_turned_even_if_its_size_fits() -> None:
    exif = Image.Exif()
    exif[0x0112] = 3
    buffer = BytesIO()
    PHOTO.save(buffer, "JPEG", exif=exif)
    result = postprocess(Picture(buffer.getvalue(), "image/jpeg"), OperationSettings(output=Output(width=300)), {})
    assert images.probe(result.data).is_plain


def test_the_frame_lies_over_the_final_size() -> None:
    settings = OperationSettings(frame="gala", output=Output(format="png", width=120, height=120))
    result = images.decode(postprocess(JPEG, settings, {"gala": frame((120, 120))}).data)
    expected = images.fit(images.decode(JPEG.data), 120, 120)
    inner = (10, 10, 110, 110)
    assert {result.getpixel(place) for place in [(0, 0), (9, 60), (119, 119), (60, 110)]} == {GREEN}
    assert result.crop(inner).tobytes() == expected.crop(inner).tobytes()


@pytest.mark.parametrize("format", ["jpeg", "png", "webp"])
def test_a_frame_alone_keeps_size_and_format(format: images.Format) -> None:
    result = postprocess(picture(PHOTO, format), OperationSettings(frame="gala"), {"gala": frame((30, 20), 5)})
    assert images.probe(result.data) == images.Header(images.MIME_TYPES[format], 300, 200, True)
    assert images.decode(result.data).getpixel((3, 3)) == pytest.approx(GREEN, abs=6)


@pytest.mark.parametrize("data", [b"", b"<html>busy</html>", JPEG.data[:20]], ids=["nothing", "text", "half a header"])
@pytest.mark.parametrize("settings", [OperationSettings(), OperationSettings(output=Output(width=20))])
def test_an_answer_that_is_no_picture_may_be_tried_again(data: bytes, settings: OperationSettings) -> None:
    with pytest.raises(AmbiguousError) as caught:
        postprocess(Picture(data, "image/jpeg"), settings, {})
    assert caught.value.reason == Reason.NO_IMAGE


def test_a_type_that_no_booth_is_given_is_no_picture() -> None:
    buffer = BytesIO()
    PHOTO.save(buffer, "HEIF")
    with pytest.raises(AmbiguousError, match="image/heic"):
        postprocess(Picture(buffer.getvalue(), "image/jpeg"), OperationSettings(), {})


def test_a_bomb_is_not_passed_on() -> None:
    with pytest.raises(AmbiguousError, match="more than 1000 pixels"):
        postprocess(JPEG, OperationSettings(), {}, max_pixels=1000)


@pytest.mark.parametrize(
    "templates",
    [{}, {"gala": Picture(b"text", "image/png")}, {"gala": JPEG}, {"gala": picture(PHOTO.convert("RGBA"))}],
    ids=["missing", "no image", "jpeg", "opaque"],
)
def test_a_bad_frame_is_the_slots_fault(templates: dict[str, Picture]) -> None:
    with pytest.raises(PermanentError) as caught:
        check(OperationSettings(frame="gala"), templates)
    assert caught.value.reason == Reason.BAD_TEMPLATE


def test_a_picture_damaged_in_its_middle_is_none() -> None:
    data = bytearray(picture(Image.effect_noise((200, 200), 90).convert("RGB")).data)
    middle = len(data) // 2
    data[middle : middle + 400] = bytes(400)
    with pytest.raises(AmbiguousError, match="not a readable image"):
        postprocess(Picture(bytes(data), "image/png"), OperationSettings(), {})


@pytest.mark.parametrize("output", [Output(width=8192), Output(format="webp", height=300), Output(format="webp")])
def test_a_picture_that_cannot_be_as_large_as_wished_is_as_large_as_can_be(output: Output) -> None:
    strip = picture(Image.new("RGB", (2, 300) if output.width else (17_000, 300)))
    header = images.probe(postprocess(strip, OperationSettings(output=output), {}).data)
    assert header.mime_type == images.MIME_TYPES[output.format]
    assert 16_000 < max(header.width, header.height) <= images.MAX_SIDES[output.format]


def test_a_good_frame_passes_the_check() -> None:
    check(OperationSettings(frame="gala"), {"gala": frame((30, 20), 5)})
    check(OperationSettings(), {})
