"""Postprocessing of every provider's picture: the slot's exact size and format, then its frame on top.

The functions decode and encode, within the memory that `core.image_work` allows: call them in a thread.
"""

from __future__ import annotations

from collections.abc import Mapping

from core import image_work, images
from providers import frames
from providers.base import AmbiguousError, OperationSettings, Output, PermanentError, Picture, Reason


def check(settings: OperationSettings, templates: Mapping[str, Picture]) -> None:
    """Whether `postprocess` will be able to do what the settings ask for, whatever picture comes: called before the
    picture is paid for. What depends on the picture, its size, never fails: see `images.target_size`.

    Raises `PermanentError(bad_template)` if the frame is missing, cannot be read or hides the whole picture.
    """
    if settings.frame is None:
        return
    if settings.frame not in templates:
        raise PermanentError(Reason.BAD_TEMPLATE, f"The slot has no template image for its frame {settings.frame}")
    if fault := frames.find_fault(templates[settings.frame].data):
        raise PermanentError(Reason.BAD_TEMPLATE, f"The frame {settings.frame} cannot be used: it is {fault.value}")


def postprocess(
    picture: Picture, settings: OperationSettings, templates: Mapping[str, Picture], max_pixels: int = images.MAX_PIXELS
) -> Picture:
    """The picture as the booth gets it. Its bytes stay as they are unless something must change. They are decoded even
    then, since a provider may send anything; except a JPEG's, whose decoder accepts any data between a good header
    and the end: decoding would cost every photo 10 ms and prove nothing.

    The frame must have passed `check`. Raises `AmbiguousError(no_image)` if what the provider made is not a JPEG, PNG
    or WebP of at most `max_pixels`.
    """
    try:
        header = images.probe(picture.data, max_pixels=max_pixels, mime_types=images.FORMATS, must_end=True)
    except images.ImageError as error:
        raise _make_unusable_error(error) from error
    if not _must_change(header, settings):
        if header.mime_type != "image/jpeg":
            _check_pixels(picture, header, max_pixels)
        return Picture(picture.data, header.mime_type)
    output = settings.output or Output(format=images.FORMATS[header.mime_type])
    frame = templates[settings.frame].data if settings.frame is not None else None
    try:
        useful = _count_useful_pixels(header, output)
        pixels = _count_pixels(header, output, useful, frame)
        data = image_work.run(_change, picture.data, output, useful, frame, max_pixels, pixels=pixels)
    except images.ImageError as error:
        raise _make_unusable_error(error) from error
    return Picture(data, images.MIME_TYPES[output.format])


def _make_unusable_error(error: images.ImageError) -> AmbiguousError:
    return AmbiguousError(Reason.NO_IMAGE, f"the provider's answer is not a usable picture: {error}")


def _must_change(header: images.Header, settings: OperationSettings) -> bool:
    """Whether the bytes must change. Another quality alone is no reason to encode again and lose some."""
    output = settings.output
    if settings.frame is not None or output is None:
        return settings.frame is not None
    size = header.width, header.height
    same_size = _find_target(size, output) == size
    return not (same_size and header.is_plain and header.mime_type == images.MIME_TYPES[output.format])


def _find_target(size: tuple[int, int], output: Output) -> tuple[int, int]:
    return images.target_size(size, output.width, output.height, images.MAX_SIDES[output.format])


def _check_pixels(picture: Picture, header: images.Header, max_pixels: int) -> None:
    pixels = images.count_decoded_pixels(header)
    try:
        image_work.run(_decode, picture.data, max_pixels, pixels=pixels)
    except images.ImageError as error:
        raise _make_unusable_error(error) from error


def _decode(data: bytes, max_pixels: int) -> None:
    images.decode(data, max_pixels=max_pixels)


def _count_useful_pixels(header: images.Header, output: Output) -> int:
    """Four times those of the result, so that scaling down twice is not seen."""
    if output.width is None and output.height is None:
        return images.USEFUL_PIXELS
    width, height = _find_target((header.width, header.height), output)
    scale = max(width / header.width, height / header.height)
    return int(4 * scale**2 * header.width * header.height)


def _count_pixels(header: images.Header, output: Output, useful: int, frame: bytes | None) -> int:
    """Of the largest image that is in memory meanwhile."""
    width, height = _find_target((header.width, header.height), output)
    result = width * height if output.width or output.height else 0
    frame_header = images.probe(frame) if frame is not None else None
    return max(
        images.count_decoded_pixels(header, useful),
        result,
        images.count_decoded_pixels(frame_header) if frame_header else 0,
    )


def _change(data: bytes, output: Output, useful_pixels: int, frame: bytes | None, max_pixels: int) -> bytes:
    image = images.decode(data, max_pixels=max_pixels, useful_pixels=useful_pixels)
    image = images.fit(image, output.width, output.height, output.fit, images.MAX_SIDES[output.format])
    if frame is not None:
        images.overlay(image, images.decode(frame, max_pixels=max_pixels))
    return images.encode(image, output.format, output.quality)
