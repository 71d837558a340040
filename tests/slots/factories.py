"""Template images, made without an upload by the admin or the API."""

from __future__ import annotations

from django.core.files.base import ContentFile
from django.core.files.uploadedfile import SimpleUploadedFile
from PIL import Image

from core import images
from slots import template_media
from slots.models import TemplateBinding, TemplateMedia
from tests.conftest import jpeg


def image(label: str = "Mood") -> TemplateMedia:
    media = TemplateMedia(label=label)
    template_media.fill(media, SimpleUploadedFile("x.jpg", jpeg()))
    media.save()
    return media


def draw_frame(width: int = 40, height: int = 30, border: int = 5) -> bytes:
    """A golden border around a transparent middle."""
    frame = Image.new("RGBA", (width, height), "gold")
    frame.paste((0, 0, 0, 0), (border, border, width - border, height - border))
    return images.encode(frame, "png")


BAD_FRAMES: dict[str, bytes] = {
    "opaque": images.encode(Image.new("RGBA", (40, 30), "gold"), "png"),
    "without transparency": jpeg(40, 30),
    "no image": b"<svg/>",
    "cut short": images.encode(Image.effect_noise((90, 90), 60).convert("RGBA"), "png")[:4000],
}


def bind(data: bytes | None, key: str = "border", slot_id: str = "slot-001") -> TemplateMedia:
    """Binds a template image to the slot, unchecked; None: its file is gone."""
    media = TemplateMedia(mime_type="image/png", size_bytes=1, checksum="c")
    media.file.save("frame.png", ContentFile(data or b""))
    if data is None:
        media.file.storage.delete(str(media.file.name))
    TemplateBinding.objects.create(slot_id=slot_id, setting_key=key, media=media)
    return media
