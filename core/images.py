"""Image operations for every room: open, turn upright, fit, frame, encode. Keeps no state."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Collection
from dataclasses import dataclass
from io import BytesIO
from math import sqrt
from typing import Final, Literal, TypeVar

import pillow_heif
from PIL import Image, ImageCms, ImageFile

pillow_heif.register_heif_opener()
# `_open` checks the header's pixel count before anything is decoded; Pillow's own limit warns first and raises later.
Image.MAX_IMAGE_PIXELS = None

Format = Literal["jpeg", "png", "webp"]
Fit = Literal["cover", "contain"]

MAX_PIXELS: Final = 100_000_000  # the default of INGEST_MAX_PIXELS; decoded, that is 400 MB
MAX_SIDE: Final = 65_500  # pixels: libjpeg's limit, and nearly every picture ends as a JPEG
MAX_SIDES: Final[dict[Format, int]] = {"jpeg": MAX_SIDE, "png": MAX_SIDE, "webp": 16_383}
USEFUL_PIXELS: Final = 24_000_000  # 51×34 cm at 300 dpi: no booth prints larger, and no model sees more
# No picture is scaled up to more than this, the most that an exact size (`Output`) may ask for: 8192 pixels a side.
MAX_SCALED_PIXELS: Final = 8192 * 8192
MIME_TYPES: Final[dict[Format, str]] = {"jpeg": "image/jpeg", "png": "image/png", "webp": "image/webp"}
FORMATS: Final[dict[str, Format]] = {mime_type: format for format, mime_type in MIME_TYPES.items()}
# MPO is a camera's JPEG with a second picture (a preview, a gain map) after the first.
_READ_AS: Final = {"MPO": "image/jpeg"}
_READABLE: Final = ("JPEG", "PNG", "WEBP", "HEIF")
_WHITE: Final = (255, 255, 255)
_SRGB: Final = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))
_SPACES: Final = {"L": "GRAY", "RGB": "RGB", "RGBA": "RGB", "CMYK": "CMYK"}  # the ICC colour space of each mode
_ENDS: Final = {"image/jpeg": b"\xff\xd9", "image/png": b"IEND"}  # Pillow itself refuses a truncated WebP
_TAIL_BYTES: Final = 1024  # some encoders write a few bytes after the end marker
_ORIENTATION: Final = 0x0112  # the EXIF tag
_TURNS: Final = {  # by the tag's value; from 5 on, width and height are swapped
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

T = TypeVar("T")


class ImageError(ValueError):
    """The bytes are not a usable image. The message is for staff."""


class OpaqueFrame(ImageError):
    """The frame would hide the whole picture."""


class TooManyPixels(ImageError):
    """The header declares more pixels than allowed, or a side longer than `MAX_SIDE`; nothing was decoded."""


@dataclass(frozen=True, slots=True)
class Header:
    """What an image declares. Width and height are as displayed, after the EXIF orientation."""

    mime_type: str
    width: int
    height: int
    is_plain: bool  # stored upright, in RGB or RGBA and in sRGB: usable without conversion
    is_progressive: bool = False  # a JPEG that its decoder keeps whole in memory, however small it is to become


def probe(
    data: bytes, *, max_pixels: int = MAX_PIXELS, mime_types: Collection[str] | None = None, must_end: bool = False
) -> Header:
    """Reads only the header: the pixel data may still be truncated. `must_end` looks for their end marker too, which
    costs little next to decoding, but refuses a camera's file with a video after the picture. Raises `ImageError`."""
    header = _open(data, max_pixels, lambda image: _read_header(image, mime_types))
    if must_end and _ENDS.get(header.mime_type, b"") not in data[-_TAIL_BYTES:]:
        raise ImageError("the picture is cut short")
    return header


def decode(data: bytes, *, max_pixels: int = MAX_PIXELS, useful_pixels: int | None = None) -> Image.Image:
    """The first frame: upright, sRGB, 8 bits, mode RGB or RGBA, without metadata. Raises `ImageError`.

    A picture of more than `useful_pixels` is scaled down to that many; a large JPEG is then never decoded in full size.
    """
    return _open(data, max_pixels, lambda image: _decode(image, useful_pixels))


def count_decoded_pixels(header: Header, useful_pixels: int | None = None) -> int:
    """How many pixels `decode` has in memory before it scales them: of a large JPEG fewer than there are."""
    pixels = header.width * header.height
    if header.mime_type == "image/jpeg" and not header.is_progressive and useful_pixels:
        for _ in range(3):  # 1/2, 1/4, 1/8 of each side
            if pixels >= 4 * useful_pixels:
                pixels //= 4
    return pixels


def check_frame(data: bytes, max_pixels: int) -> None:
    """Raises `OpaqueFrame` if nothing could be seen through the frame, `ImageError` if it cannot be read."""
    frame = decode(data, max_pixels=max_pixels)
    if frame.mode != "RGBA" or frame.getchannel("A").getextrema()[0] == 255:
        raise OpaqueFrame("it has no transparent part")


def encode(image: Image.Image, format: Format, quality: int = 92) -> bytes:
    """`quality` applies to JPEG and WebP. JPEG has no transparency: transparent pixels become white. Raises
    `ImageError` if the format cannot hold that size; WebP's limit is 16,383 pixels a side."""
    buffer = BytesIO()
    try:
        _write(image, buffer, format, quality)
    except (OSError, ValueError) as error:
        raise ImageError(f"{image.width}×{image.height} pixels cannot become a {format}") from error
    return buffer.getvalue()


def _write(image: Image.Image, buffer: BytesIO, format: Format, quality: int) -> None:
    if format == "jpeg":
        # Colour at half resolution saves a third of the bytes, and above 4 MP it is still finer than a print shows;
        # below, a red letter of a frame would fray.
        subsampling = "4:4:4" if image.width * image.height <= 4_000_000 else "4:2:0"
        flatten(image).save(buffer, "JPEG", quality=quality, subsampling=subsampling)
    elif format == "png":
        # Run lengths only: on a photo a search for longer matches takes two thirds longer and finds nothing.
        image.save(buffer, "PNG", compress_level=1, compress_type=zlib.Z_RLE)
    else:
        image.save(buffer, "WEBP", quality=quality, method=1)  # method 4 takes three times as long, to no smaller file


def fit(
    image: Image.Image, width: int | None, height: int | None, mode: Fit = "cover", max_side: int = MAX_SIDE
) -> Image.Image:
    """Both sides given: exactly that size, cropped from the centre (`cover`) or on white (`contain`).
    One side given: scaled to it. None given: the image itself, unless it is too large for `target_size`."""
    target = target_size(image.size, width, height, max_side)
    if target == image.size:
        return image
    if width is None or height is None:
        return _resize(image, target)
    return _cover(image, target) if mode == "cover" else _contain(image, target)


def target_size(
    size: tuple[int, int], width: int | None, height: int | None, max_side: int = MAX_SIDE
) -> tuple[int, int]:
    """The size that `fit` makes of `size`. Where a side that is not given would be longer than `max_side`, or a strip a
    few pixels wide would use up all memory, it is the largest size of the same shape."""
    if width is not None and height is not None:
        return width, height
    own_width, own_height = size
    wanted = width / own_width if width is not None else height / own_height if height is not None else 1.0
    most = max(1.0, sqrt(MAX_SCALED_PIXELS / (own_width * own_height)))
    scale = min(wanted, most, max_side / max(size))
    if scale < wanted or scale == 1:
        return max(1, int(own_width * scale)), max(1, int(own_height * scale))
    return width or max(1, round(own_width * scale)), height or max(1, round(own_height * scale))


def overlay(image: Image.Image, frame: Image.Image) -> None:
    """Lays `frame` over the image itself. A frame of another aspect ratio is stretched: cropping it would lose two of
    its borders."""
    frame = frame if frame.size == image.size else _resize(frame, image.size)
    frame = frame if frame.mode == "RGBA" else frame.convert("RGBA")
    if image.mode == "RGBA":
        image.alpha_composite(frame)
    else:
        image.paste(frame, (0, 0), frame)


def flatten(image: Image.Image) -> Image.Image:
    """Mode RGB; what was transparent is white."""
    if image.mode != "RGBA":
        return image.convert("RGB") if image.mode != "RGB" else image
    result = Image.new("RGB", image.size, _WHITE)
    result.paste(image, (0, 0), image)
    return result


def _open(data: bytes, max_pixels: int, use: Callable[[ImageFile.ImageFile], T]) -> T:
    try:
        with Image.open(BytesIO(data), formats=_READABLE) as image:
            if image.width * image.height > max_pixels:
                raise TooManyPixels(f"{image.width}×{image.height} are more than {max_pixels} pixels")
            if max(image.size) > MAX_SIDE:
                raise TooManyPixels(f"{image.width}×{image.height}: a side of more than {MAX_SIDE} pixels")
            return use(image)
    except ImageError:
        raise
    except Exception as error:  # on hostile bytes the decoders raise anything, from KeyError to struct.error
        raise ImageError(f"not a readable image ({type(error).__name__})") from error


def _read_header(image: ImageFile.ImageFile, mime_types: Collection[str] | None) -> Header:
    mime_type = image.get_format_mimetype() or ""
    mime_type = _READ_AS.get(image.format or "", mime_type)
    if mime_types is not None and mime_type not in mime_types:
        raise ImageError(f"{mime_type} is not one of {', '.join(mime_types)}")
    orientation = _read_orientation(image)
    width, height = image.size if orientation < 5 else image.size[::-1]
    plain = orientation == 1 and image.mode in ("RGB", "RGBA") and _has_srgb_profile(image.info.get("icc_profile"))
    return Header(mime_type, width, height, plain, bool(image.info.get("progressive")))


def _has_srgb_profile(profile: bytes | None) -> bool:
    if not profile:  # sRGB is the default
        return True
    try:
        return _is_srgb(ImageCms.ImageCmsProfile(BytesIO(profile)))
    except (ImageCms.PyCMSError, OSError):
        return False


def _decode(image: ImageFile.ImageFile, useful_pixels: int | None) -> Image.Image:
    size = _limit_size(image.size, useful_pixels)
    image.draft(None, size)  # a JPEG decodes at 1/2, 1/4 or 1/8 of its size, if that is enough
    turn = _TURNS.get(_read_orientation(image))
    image.load()
    scaled = _scale_down(image, size)
    upright = scaled if turn is None else scaled.transpose(turn)
    result = _convert_to_srgb(upright, image.info.get("icc_profile"))
    result.info = {}
    return result


def _scale_down(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """The image itself if it is no larger. Otherwise it is closed, for its memory."""
    if image.width <= size[0]:
        return image
    factor = min(image.width // size[0], image.height // size[1])
    if factor > 1 and image.mode in _SPACES:  # a first step that takes little memory
        reduced = image.reduce(factor)
        image.close()
        return _resize(reduced, size)
    scaled = _resize(image, size)
    image.close()
    return scaled


def _limit_size(size: tuple[int, int], useful_pixels: int | None) -> tuple[int, int]:
    width, height = size
    scale = sqrt(useful_pixels / (width * height)) if useful_pixels else 1.0
    return size if scale >= 1 else (max(1, int(width * scale)), max(1, int(height * scale)))


def _read_orientation(image: Image.Image) -> int:
    if "exif" not in image.info:  # getexif() of a PNG without EXIF would decode the pixels to look after them
        return 1
    try:
        value = image.getexif().get(_ORIENTATION)
    except Exception:  # noqa: BLE001 - a garbled EXIF block (any error is possible) is no reason to lose a good photo
        return 1
    return value if value in _TURNS else 1


def _convert_to_srgb(image: Image.Image, profile: bytes | None) -> Image.Image:
    """Mode RGB or RGBA, eight bits; the image itself if it is so, for a copy takes as much memory again."""
    if image.mode.startswith("I"):  # 16 bits of grey; convert() would clip instead of scale
        image = image.point(lambda value: value * (1 / 256)).convert("L")
    mode = "RGBA" if image.has_transparency_data else "RGB"
    if image.mode not in _SPACES:
        image = image.convert(mode)
    if profile and (converted := _convert_from_profile(image, profile, mode)):
        return converted
    # The image of WebP or HEIF keeps its decoder's memory.
    is_lean = not isinstance(image, ImageFile.ImageFile) or image.format in ("JPEG", "MPO", "PNG")
    return image if image.mode == mode and is_lean else image.convert(mode)


def _convert_from_profile(image: Image.Image, profile: bytes, mode: str) -> Image.Image | None:
    """None if no conversion is needed, or the profile is unusable."""
    try:
        source = ImageCms.ImageCmsProfile(BytesIO(profile))
        if source.profile.xcolor_space.strip() != _SPACES[image.mode] or _is_srgb(source):
            return None
        return ImageCms.profileToProfile(
            image,
            source,
            _SRGB,
            renderingIntent=ImageCms.Intent.RELATIVE_COLORIMETRIC,
            outputMode=mode,
            flags=ImageCms.Flags.BLACKPOINTCOMPENSATION,
        )
    except (ImageCms.PyCMSError, OSError):
        return None


def _is_srgb(profile: ImageCms.ImageCmsProfile) -> bool:
    return "sRGB IEC61966" in (profile.profile.profile_description or "")


def _resize(
    image: Image.Image, size: tuple[int, int], box: tuple[float, float, float, float] | None = None
) -> Image.Image:
    # From three times the target size on, a box filter runs first: much faster, with no visible difference.
    return image.resize(size, Image.Resampling.LANCZOS, box=box, reducing_gap=3.0)


def _cover(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    scale = min(image.width / size[0], image.height / size[1])
    left, top = (image.width - size[0] * scale) / 2, (image.height - size[1] * scale) / 2
    return _resize(image, size, (left, top, image.width - left, image.height - top))


def _contain(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    scale = min(size[0] / image.width, size[1] / image.height)
    inner = _resize(image, (max(1, round(image.width * scale)), max(1, round(image.height * scale))))
    result = Image.new("RGB", size, _WHITE)
    result.paste(flatten(inner), ((size[0] - inner.width) // 2, (size[1] - inner.height) // 2))
    return result
