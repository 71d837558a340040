"""Runs the whole service against the sandbox: with accounts at the sandbox, and a slot for every paid operation."""

from __future__ import annotations

import os
import sys

from django.core.files.uploadedfile import SimpleUploadedFile
from django.core.management import CommandError, call_command
from PIL import Image, ImageDraw

from core import images
from photoslot.demo_scene import draw_scene
from providers import registry
from providers.base import Operation
from providers.models import ProviderAccount
from slots import template_media
from slots.models import Slot, TemplateBinding, TemplateMedia
from tests.sandbox.settings import SERVER

PAID = ("gemini", "openai", "turbotext")
PROMPT = "Make it a painting; keep faces, pose and composition as they are."


def run() -> None:
    with SERVER:
        call_command("migrate", verbosity=0)
        call_command("bootstrap")
        for provider in PAID:
            account = ProviderAccount.objects.filter(pk=provider)
            # The sandbox may have another port than last time, and is never behind the real accounts' proxy.
            account.update(base_url=os.environ[f"{provider.upper()}_BASE_URL"], encrypted_proxy_url="")
            for operation in registry.get_classes()[provider].operations:
                _add_slot(provider, operation)
        try:
            call_command("run")
        except CommandError as error:
            sys.exit(str(error))


def _add_slot(provider: str, operation: Operation) -> None:
    """Creates the operation's slot unless it exists, and prints it."""
    slot = Slot.objects.filter(provider_id=provider, operation_id=operation.id).first()
    if slot is None:
        settings_json: dict[str, str] = {
            field: field for field in ("style", "face") if field in operation.settings.model_fields
        }
        if "prompt" in operation.settings.model_fields:
            settings_json["prompt"] = PROMPT
        slot = Slot(pk=Slot.next_id(), provider_id=provider, operation_id=operation.id, settings_json=settings_json)
        slot.name = f"{registry.get_provider_name(provider)}: {operation.name}"
        slot.save()
        for key in settings_json.keys() - {"prompt"}:
            _bind(slot, key)
        slot.full_clean()
    print(f"  {slot}: /ingest/{slot.pk}", flush=True)  # noqa: T201 - says where to post


def _bind(slot: Slot, key: str) -> None:
    media = TemplateMedia(label=key)
    template_media.fill(media, SimpleUploadedFile(f"{key}.png", images.encode(DRAWN[key](), "png")))
    media.save()
    TemplateBinding.objects.create(slot=slot, setting_key=key, media=media)


def _draw_style() -> Image.Image:
    """A mosaic."""
    return draw_scene(90, 60).quantize(24).convert("RGB").resize((900, 600), Image.Resampling.NEAREST)


def _draw_face() -> Image.Image:
    face = Image.new("RGB", (600, 600), "#3d5a80")
    draw = ImageDraw.Draw(face)
    draw.ellipse((120, 60, 480, 560), fill="#e0ac84")
    for x in (230, 370):
        draw.ellipse((x - 28, 230, x + 28, 270), fill="white")
        draw.ellipse((x - 12, 236, x + 12, 264), fill="#2b2d42")
    draw.polygon([(300, 290), (270, 370), (330, 370)], fill="#c98f66")
    draw.arc((220, 360, 380, 480), 20, 160, fill="#9b2226", width=12)
    return face


DRAWN = {"style": _draw_style, "face": _draw_face}
