"""What every room needs of an image: open, turn upright, fit, frame, encode. Knows no room and keeps no state."""

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
# Every opening here counts the pixels in the header before it decodes; Pillow's own limit warns first and raises later.
Image.MAX_IMAGE_PIXELS = None

Format = Literal["jpeg", "png", "webp"]
Fit = Literal["cover", "contain"]

MAX_PIXELS: Final = 100_000_000  # the default of INGEST_MAX_PIXELS; decoded, that is 300 MB
MAX_SIDE: Final = 65_500  # pixels: libjpeg writes no longer ones, and nearly everything ends as a JPEG
MIME_TYPES: Final[dict[Format, str]] = {"jpeg": "image/jpeg", "png": "image/png", "webp": "image/webp"}
FORMATS: Final[dict[str, Format]] = {mime_type: format for format, mime_type in MIME_TYPES.items()}
# MPO is a camera's JPEG with a second picture (a preview, a gain map) behind the first.
_READ_AS: Final = {"MPO": "image/jpeg"}
_READABLE: Final = ("JPEG", "PNG", "WEBP", "HEIF")
_WHITE: Final = (255, 255, 255)
_SRGB: Final = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))
_SPACES: Final = {"L": "GRAY", "RGB": "RGB", "RGBA": "RGB", "CMYK": "CMYK"}  # what a profile calls the modes
_ENDS: Final = {"image/jpeg": b"\xff\xd9", "image/png": b"IEND"}  # Pillow itself opens no WebP that is cut short
_TAIL_BYTES: Final = 1024  # some encoders leave a few bytes behind the end
_ORIENTATION: Final = 0x0112  # the EXIF tag
_TURNS: Final = {  # its values; from 5 on the picture lies on its side
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
    """The bytes are not an image that can be used. The message is for staff."""


class TooManyPixels(ImageError):
    """The header promises more pixels than are allowed, or a side of more than `MAX_SIDE`; nothing was decoded."""


@dataclass(frozen=True, slots=True)
class Header:
    """What an image says of itself. The sides are those a person sees, after the EXIF orientation."""

    mime_type: str
    width: int
    height: int
    is_plain: (
        bool  # stored upright, in RGB and (for want of another profile) in sRGB: the pixels are usable as they lie
    )


def probe(
    data: bytes, *, max_pixels: int = MAX_PIXELS, mime_types: Collection[str] | None = None, must_end: bool = False
) -> Header:
    """Read the header only: it may promise a picture whose data are cut off. `must_end` looks for their end too, which
    costs nothing beside decoding them, and would refuse a camera's file with a film behind the picture.
    Raises `ImageError`."""
    header = _opened(data, max_pixels, lambda image: _header(image, mime_types))
    if must_end and _ENDS.get(header.mime_type, b"") not in data[-_TAIL_BYTES:]:
        raise ImageError("the picture is cut short")
    return header


def decode(data: bytes, *, max_pixels: int = MAX_PIXELS, useful_pixels: int | None = None) -> Image.Image:
    """The first frame: upright, sRGB, 8 bits, mode RGB or RGBA, without metadata. Raises `ImageError`.

    A picture of more than `useful_pixels` is scaled down to them; a large JPEG then never takes its full memory.
    """
    return _opened(data, max_pixels, lambda image: _decoded(image, useful_pixels))


def encode(image: Image.Image, format: Format, quality: int = 92) -> bytes:
    """`quality` is for JPEG and WebP. JPEG knows no transparency: it becomes white. Raises `ImageError` where the
    format takes no picture of that size; a WebP's sides end at 16,383 pixels."""
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
        # Run lengths only: on a photo the search for repeats takes two thirds longer and finds nothing.
        image.save(buffer, "PNG", compress_level=1, compress_type=zlib.Z_RLE)
    else:
        image.save(buffer, "WEBP", quality=quality, method=1)  # method 4 takes three times as long, to no smaller file


def fit(image: Image.Image, width: int | None, height: int | None, mode: Fit = "cover") -> Image.Image:
    """Both sides given: exactly that size, cropped from the centre (`cover`) or on white (`contain`).
    One side given: scaled to it. None: the image itself. Raises `ImageError` where the other side would be longer than
    `MAX_SIDE`: a strip of a few pixels could take all memory there is."""
    target = target_size(image.size, width, height)
    if target == image.size:
        return image
    if max(target) > MAX_SIDE:
        raise ImageError(f"{target[0]}×{target[1]}: a side of more than {MAX_SIDE} pixels")
    if width is None or height is None:
        return _resized(image, target)
    return _covering(image, target) if mode == "cover" else _contained(image, target)


def target_size(size: tuple[int, int], width: int | None, height: int | None) -> tuple[int, int]:
    """The size that `fit` makes of `size`."""
    own_width, own_height = size
    if width is not None:
        return width, height if height is not None else max(1, round(own_height * width / own_width))
    return size if height is None else (max(1, round(own_width * height / own_height)), height)


def overlay(image: Image.Image, frame: Image.Image) -> Image.Image:
    """`frame` on top, where it is opaque. A frame of another ratio is stretched: cropped, it would lose two borders."""
    frame = frame if frame.size == image.size else _resized(frame, image.size)
    frame = frame.convert("RGBA")
    if image.mode == "RGBA":
        return Image.alpha_composite(image, frame)
    result = image.copy()
    result.paste(frame, (0, 0), frame)
    return result


def flatten(image: Image.Image) -> Image.Image:
    """Mode RGB; what was transparent is white."""
    if image.mode != "RGBA":
        return image.convert("RGB") if image.mode != "RGB" else image
    result = Image.new("RGB", image.size, _WHITE)
    result.paste(image, (0, 0), image)
    return result


def _opened(data: bytes, max_pixels: int, use: Callable[[ImageFile.ImageFile], T]) -> T:
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


def _header(image: ImageFile.ImageFile, mime_types: Collection[str] | None) -> Header:
    mime_type = image.get_format_mimetype() or ""
    mime_type = _READ_AS.get(image.format or "", mime_type)
    if mime_types is not None and mime_type not in mime_types:
        raise ImageError(f"{mime_type} is not one of {', '.join(mime_types)}")
    orientation = _orientation(image)
    width, height = image.size if orientation < 5 else image.size[::-1]
    plain = orientation == 1 and image.mode in ("RGB", "RGBA") and _says_srgb(image.info.get("icc_profile"))
    return Header(mime_type, width, height, plain)


def _says_srgb(profile: bytes | None) -> bool:
    if not profile:
        return True
    try:
        return _is_srgb(ImageCms.ImageCmsProfile(BytesIO(profile)))
    except (ImageCms.PyCMSError, OSError):
        return False


def _decoded(image: ImageFile.ImageFile, useful_pixels: int | None) -> Image.Image:
    size = _useful_size(image.size, useful_pixels)
    image.draft(None, size)  # a JPEG decodes at a half, a quarter or an eighth, if that is enough
    turn = _TURNS.get(_orientation(image))
    image.load()
    upright: Image.Image = image if turn is None else image.transpose(turn)
    if image.width > size[0]:
        upright = _resized(upright, size if turn is None or upright.size == image.size else size[::-1])
    result = _in_srgb(upright, image.info.get("icc_profile"))
    result.info = {}
    return result


def _useful_size(size: tuple[int, int], useful_pixels: int | None) -> tuple[int, int]:
    width, height = size
    scale = sqrt(useful_pixels / (width * height)) if useful_pixels else 1.0
    return size if scale >= 1 else (max(1, int(width * scale)), max(1, int(height * scale)))


def _orientation(image: Image.Image) -> int:
    if "exif" not in image.info:  # asked for EXIF, a PNG without it decodes itself to look behind the pixels
        return 1
    try:
        value = image.getexif().get(_ORIENTATION)
    except Exception:  # noqa: BLE001 - a garbled EXIF block (any error is possible) is no reason to lose a good photo
        return 1
    return value if value in _TURNS else 1


def _in_srgb(image: Image.Image, profile: bytes | None) -> Image.Image:
    """A new image: mode RGB or RGBA, eight bits."""
    if image.mode.startswith("I"):  # 16 bits of grey; convert() would clip instead of scale
        image = image.point(lambda value: value * (1 / 256)).convert("L")
    mode = "RGBA" if image.has_transparency_data else "RGB"
    if image.mode not in _SPACES:
        image = image.convert(mode)
    return (profile and _from_profile(image, profile, mode)) or image.convert(mode)


def _from_profile(image: Image.Image, profile: bytes, mode: str) -> Image.Image | None:
    """None if there is nothing to convert, or nothing to be made of the profile."""
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


def _resized(
    image: Image.Image, size: tuple[int, int], box: tuple[float, float, float, float] | None = None
) -> Image.Image:
    # From three times the size on, a box filter goes first: much faster, and the difference cannot be seen.
    return image.resize(size, Image.Resampling.LANCZOS, box=box, reducing_gap=3.0)


def _covering(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    scale = min(image.width / size[0], image.height / size[1])
    left, top = (image.width - size[0] * scale) / 2, (image.height - size[1] * scale) / 2
    return _resized(image, size, (left, top, image.width - left, image.height - top))


def _contained(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    scale = min(size[0] / image.width, size[1] / image.height)
    inner = _resized(image, (max(1, round(image.width * scale)), max(1, round(image.height * scale))))
    result = Image.new("RGB", size, _WHITE)
    result.paste(flatten(inner), ((size[0] - inner.width) // 2, (size[1] - inner.height) // 2))
    return result
