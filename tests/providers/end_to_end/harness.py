"""A booth that posts to a slot of a paid provider, and checks of everything that its photo leaves behind."""

from __future__ import annotations

from dataclasses import dataclass
from io import BytesIO
from typing import Any

from django.core.files.uploadedfile import SimpleUploadedFile
from PIL import Image, ImageChops, ImageStat

from core import images
from jobs.models import Job, MediaObject
from photoslot.demo_scene import draw_scene
from providers.models import ProviderAccount, ProviderCall
from slots import template_media
from slots.models import TemplateBinding, TemplateMedia
from stats.models import HourlyCounter, ProcessingLog
from tests.booth_client import Reply
from tests.conftest import Booth, set_slot, stored_files
from tests.ingest.helpers import eventually, refusal
from tests.sandbox import gemini, openai, turbotext
from tests.sandbox.wire import Received, Speaker, WireSandbox

SPEAKERS: list[type[Speaker]] = [gemini.Gemini, openai.OpenAI, turbotext.TurbotextSpeaker]
KEYS = {"gemini": gemini.KEY, "openai": openai.KEY, "turbotext": turbotext.KEY}
PROVIDERS = list(KEYS)
PROMPT = "As a watercolour that nobody may read about"
SETTINGS: dict[str, dict[str, Any]] = {
    "gemini": {"prompt": PROMPT},
    "openai": {"prompt": PROMPT, "size": "1024x640", "quality": "low"},
    "turbotext": {"prompt": PROMPT},
}
SCENE = draw_scene(640, 400)
PHOTO = images.encode(SCENE, "jpeg", 95)

Scenarios = str | tuple[str, ...]


@dataclass
class Harness:
    """The running service with accounts at the sandbox; `post` sets the slot's provider and settings."""

    booth: Booth
    wire: WireSandbox

    @property
    def google(self) -> gemini.Gemini:
        speaker = self.wire.speakers["gemini"]
        assert isinstance(speaker, gemini.Gemini)
        return speaker

    def post(
        self, provider: str, scenarios: Scenarios = (), operation: str = "image_edit", photo: bytes = PHOTO, **more: Any
    ) -> Reply:
        has_prompt = (provider, operation) != ("turbotext", "identity_transfer")
        settings_json = (SETTINGS[provider] if has_prompt else {}) | more
        set_slot(provider_id=provider, operation_id=operation, settings_json=settings_json)
        self.wire.speakers[provider].play(*([scenarios] if isinstance(scenarios, str) else scenarios))
        return self.booth.post(photo)

    def set_address(self, provider: str, base_url: str) -> None:
        """Changes the address of the provider's account."""
        ProviderAccount.objects.filter(pk=provider).update(base_url=base_url)

    def paid_requests(self, provider: str) -> list[Received]:
        """The requests that a provider counts or bills."""
        posts = self.wire.calls(provider)
        wanted = {"gemini": ":generateContent", "openai": "/images/edits", "turbotext": "/api_ai/"}[provider]
        return [post for post in posts if wanted in post.path and b"do=get_result" not in post.body]

    def has_no_leftovers(self) -> bool:
        """Whether only the result of the photo is left: no other file, no public link, no upload at the provider."""
        kept = [path for path in Job.objects.values_list("result_file_path", flat=True) if path]
        stored = [path for path in stored_files() if not path.startswith("templates/")]
        return stored == kept and not MediaObject.objects.exists() and not self.google.files.photos()


def create_template(key: str, image: Image.Image, slot: str = "slot-001") -> None:
    media = TemplateMedia()
    template_media.fill(media, SimpleUploadedFile("x.png", images.encode(image, "png")))
    media.save()
    TemplateBinding.objects.create(slot_id=slot, setting_key=key, media=media)


def summarize_calls() -> str:
    """All recorded calls: each with its outcome, its reason, and a $ if its cost is known."""
    return " ".join(_summarize(call) for call in ProviderCall.objects.order_by("id"))


def _summarize(call: ProviderCall) -> str:
    return f"{call.outcome}{f':{call.reason}' if call.reason else ''}{'' if call.cost_usd is None else '$'}"


def steps() -> list[str]:
    return list(ProcessingLog.objects.order_by("id").values_list("status", flat=True))


def check(harness: Harness, provider: str, reply: Reply, status: int, expected: str, posts: int | None = None) -> None:
    """Checks all that one photo leaves behind. `expected` are its calls in the form of `summarize_calls`; the last
    one's reason must be in reply, job and log too. `posts`: the provider's requests, if not one for each call."""
    attempts = expected.split()
    reason = attempts[-1].partition(":")[2].rstrip("$") or None
    assert summarize_calls() == expected
    if status == 200:
        assert reply.status == 200, reply.body
        images.decode(reply.body)
        assert images.probe(reply.body).mime_type == dict(reply.headers)["content-type"]
    else:
        assert refusal(reply, 502, "provider_error")["reason"] == reason
    job = Job.objects.get()
    assert job.is_finalized
    assert (job.failure_reason, job.error_reason) == ((None, None) if status == 200 else ("provider_error", reason))
    assert steps() == [
        "received",
        "dispatched",
        *["provider_responded"] * len(attempts),
        "succeeded" if status == 200 else "failed",
    ]
    counted = HourlyCounter.objects.get()
    assert (counted.success, counted.provider_errors, counted.timeouts) == (status == 200, status != 200, 0)
    assert len(harness.paid_requests(provider)) == (len(attempts) if posts is None else posts)
    assert {request.provider for request in harness.wire.journal} <= {provider}  # and no key was sent elsewhere
    assert eventually(harness.has_no_leftovers)
    check_secrets(provider)


def check_secrets(provider: str) -> None:
    logged = str(list(ProcessingLog.objects.values_list("message", "details")))
    assert not [secret for secret in (KEYS[provider], PROMPT) if secret in logged]


def open_picture(reply: Reply) -> Image.Image:
    assert reply.status == 200, reply.body
    return Image.open(BytesIO(reply.body))


def distance(left: Image.Image, right: Image.Image) -> float:
    """Mean difference of the pixels, of 255."""
    return sum(ImageStat.Stat(ImageChops.difference(left.convert("RGB"), right.convert("RGB"))).mean) / 3
