"""Postprocessing of every provider's picture: the slot's exact size and format, then its frame on top.

Pure functions that decode and encode: call them in a thread.
"""

from __future__ import annotations

from collections.abc import Mapping

from PIL import Image

from core import images
from providers.base import AmbiguousError, OperationSettings, Output, PermanentError, Picture, Reason


def postprocess(
    picture: Picture, settings: OperationSettings, templates: Mapping[str, Picture], max_pixels: int = images.MAX_PIXELS
) -> Picture:
    """The picture as the booth gets it. Its bytes stay as they are unless something must change. They are decoded even
    then, since a provider may send anything; except a JPEG's, whose decoder accepts any data between a good header
    and the end: decoding would cost every photo 10 ms and prove nothing.

    Raises `AmbiguousError(no_image)` if what the provider made is not a JPEG, PNG or WebP of at most `max_pixels`, and
    `PermanentError`: `bad_template` if the frame is missing or hides the whole picture, `bad_settings` if no picture
    can be as large as `output` makes this one.
    """
    try:
        header = images.probe(picture.data, max_pixels=max_pixels, mime_types=images.FORMATS, must_end=True)
        is_unchanged = not _must_change(header, settings)
        if is_unchanged and header.mime_type == "image/jpeg":
            return Picture(picture.data, header.mime_type)
        image = images.decode(picture.data, max_pixels=max_pixels)
        if is_unchanged:
            return Picture(picture.data, header.mime_type)
    except images.ImageError as error:
        raise AmbiguousError(Reason.NO_IMAGE, f"the provider's answer is not a usable picture: {error}") from error
    output = settings.output or Output(format=images.FORMATS[header.mime_type])
    try:
        image = images.fit(image, output.width, output.height, output.fit)
        if settings.frame is not None:
            image = images.overlay(image, _decode_frame(settings.frame, templates, max_pixels))
        return Picture(images.encode(image, output.format, output.quality), images.MIME_TYPES[output.format])
    except images.ImageError as error:
        raise PermanentError(Reason.BAD_SETTINGS, f"the picture cannot be as `output` wishes: {error}") from error


def _must_change(header: images.Header, settings: OperationSettings) -> bool:
    """Whether the bytes must change. Another quality alone is no reason to encode again and lose some."""
    output = settings.output
    if settings.frame is not None or output is None:
        return settings.frame is not None
    size = header.width, header.height
    same_size = images.target_size(size, output.width, output.height) == size
    return not (same_size and header.is_plain and header.mime_type == images.MIME_TYPES[output.format])


def _decode_frame(key: str, templates: Mapping[str, Picture], max_pixels: int) -> Image.Image:
    if key not in templates:
        raise PermanentError(Reason.BAD_TEMPLATE, f"the frame {key} is missing")
    try:
        frame = images.decode(templates[key].data, max_pixels=max_pixels)
    except images.ImageError as error:
        raise PermanentError(Reason.BAD_TEMPLATE, f"the frame {key} cannot be read: {error}") from error
    if frame.mode != "RGBA" or frame.getchannel("A").getextrema()[0] == 255:
        raise PermanentError(Reason.BAD_TEMPLATE, f"the frame {key} has no transparent part")
    return frame
