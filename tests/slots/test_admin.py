"""The admin's pages for slots and template images."""

from __future__ import annotations

from typing import Any

import pytest
from django.contrib.admin.models import LogEntry
from django.core.files.uploadedfile import SimpleUploadedFile
from django.test import Client
from django.urls import reverse
from PIL import Image

from core import images
from jobs.storage import files
from slots.models import Slot, TemplateBinding, TemplateMedia
from tests.admin_client import browser, errors_of, read_version, text_of
from tests.conftest import jpeg, set_slot, stored_files
from tests.slots.factories import bind, draw_frame
from tests.slots.form_data import ADD, change_url, settings, slot_page

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("rolled_back_database")]

LIST = reverse("admin:slots_slot_changelist")
MEDIA_LIST = reverse("admin:slots_templatemedia_changelist")
MEDIA_ADD = reverse("admin:slots_templatemedia_add")


@pytest.fixture
def admin() -> Client:
    return browser(superuser=True)


def form(look: str, recipe: str = "studio/image_edit", **more: Any) -> dict[str, Any]:
    return slot_page(recipe, **settings(look=look), **more)


def upload(client: Client, data: bytes, name: str = "x.jpg", label: str = "Mood") -> Any:
    file = SimpleUploadedFile(name, data, content_type="image/jpeg")
    return client.post(MEDIA_ADD, {"file": file, "label": label})


def add_media(client: Client, data: bytes | None = None) -> TemplateMedia:
    assert upload(client, data or jpeg()).status_code == 302
    return TemplateMedia.objects.get()


def png(mode: str = "RGBA", size: tuple[int, int] = (60, 40)) -> bytes:
    return images.encode(Image.new(mode, size), "png")


def act(client: Client, action: str, *slot_ids: str) -> str:
    answer = client.post(LIST, {"action": action, "_selected_action": slot_ids}, follow=True)
    return text_of(answer)


def test_the_list_names_provider_and_operation_in_a_constant_number_of_queries(
    admin: Client, django_assert_num_queries: Any
) -> None:
    with django_assert_num_queries(5):  # session, user, count, rows, and the count of all
        page = text_of(admin.get(LIST))
    assert "slot-013 Comic - Studio (built in): Look" in page


def test_a_new_slot_is_offered_the_next_free_id(admin: Client) -> None:
    Slot.objects.filter(pk="slot-007").delete()
    assert admin.get(ADD).context["adminform"].form.initial["id"] == "slot-007"
    assert admin.post(ADD, form("noir", id="slot-007")).status_code == 302
    slot = Slot.objects.get(pk="slot-007")
    assert (slot.provider_id, slot.operation_id, slot.settings_json) == ("studio", "image_edit", {"look": "noir"})
    assert admin.get(ADD).context["adminform"].form.initial["id"] == "slot-016"


def test_an_id_that_is_taken_never_overwrites(admin: Client) -> None:
    assert "id" in errors_of(admin.post(ADD, form("noir", id="slot-001")))
    assert Slot.objects.get(pk="slot-001").name == "Black and white film"


def test_an_id_stays_for_good(admin: Client) -> None:
    assert admin.post(change_url(), form("noir", id="slot-099")).status_code == 302
    assert not Slot.objects.filter(pk="slot-099").exists()
    assert Slot.objects.get(pk="slot-001").settings_json == {"look": "noir"}


def test_an_operation_that_is_not_offered_is_refused_in_one_sentence(admin: Client) -> None:
    (sentence,) = errors_of(admin.post(change_url(), form("noir", recipe="studio/dance")))["recipe"]
    assert "studio/dance is not one of" in sentence


def test_a_slot_of_a_provider_that_is_gone_shows_it_and_cannot_be_saved_so(admin: Client) -> None:
    set_slot(provider_id="acme")
    assert "acme/image_edit" in text_of(admin.get(change_url()))
    answer = admin.post(change_url(), form("noir", recipe="acme/image_edit"))
    assert errors_of(answer) == {"recipe": ["There is no such provider."]}


def test_a_template_image_added_in_the_same_form_counts(admin: Client) -> None:
    row = {"setting_key": "mood", "media": add_media(admin).pk}
    answer = admin.post(change_url(), slot_page("studio/style_transfer", [row], **settings(style="mood")))
    assert answer.status_code == 302
    assert Slot.objects.get(pk="slot-001").bindings.get().setting_key == "mood"


@pytest.mark.parametrize("is_new", [True, False])
def test_an_image_that_would_hide_the_picture_is_no_frame(admin: Client, is_new: bool) -> None:
    """The image is that of the posted form, not that of the saved slot."""
    media = add_media(admin)  # a JPEG
    row = {"setting_key": "border", "media": media.pk}
    if not is_new:
        bind(draw_frame())
        row |= {"id": TemplateBinding.objects.get().pk, "slot": "slot-001"}
    answer = admin.post(change_url(), slot_page("studio/image_edit", [row], **settings(look="noir", frame="border")))
    ((field, (sentence,)),) = errors_of(answer).items()
    assert (field, "no transparent part" in sentence) == ("settings.frame", True)


@pytest.mark.parametrize("media_id", ["", "00000000-0000-0000-0000-000000000000"])
def test_an_image_that_was_not_chosen_is_no_frame(admin: Client, media_id: str) -> None:
    row = {"setting_key": "border", "media": media_id}
    answer = admin.post(change_url(), slot_page("studio/image_edit", [row], **settings(look="noir", frame="border")))
    assert answer.status_code == 200
    assert not TemplateBinding.objects.exists()


@pytest.mark.parametrize("leaving", [{"DELETE": "on"}, {"setting_key": "other"}])
def test_a_template_image_leaving_in_the_same_form_does_not(admin: Client, leaving: dict[str, str]) -> None:
    media = add_media(admin)
    binding = TemplateBinding.objects.create(slot_id="slot-001", setting_key="mood", media=media)
    row = {"id": binding.pk, "slot": "slot-001", "setting_key": "mood", "media": media.pk} | leaving
    answer = admin.post(change_url(), slot_page("studio/style_transfer", [row], **settings(style="mood")))
    assert list(errors_of(answer)) == ["settings.style"]
    assert TemplateBinding.objects.get().setting_key == "mood"


def test_the_booths_address_is_shown_with_an_example(admin: Client) -> None:
    page = text_of(admin.get(change_url("slot-003")))
    assert "-F fileToUpload=@photo.jpg http://localhost:8000/ingest/slot-003" in page


def test_archived_slots_are_listed_only_on_request(admin: Client) -> None:
    assert "Archived: slot-002, slot-003." in act(admin, "archive", "slot-002", "slot-003")
    assert "slot-002" not in text_of(admin.get(LIST))
    assert "slot-002" in text_of(admin.get(LIST, {"archived": "yes"}))
    assert "slot-001" not in text_of(admin.get(LIST, {"archived": "yes"}))
    assert "slot-002 Film noir archived" in text_of(admin.get(LIST, {"archived": "all"}))
    assert list(LogEntry.objects.values_list("object_id", "change_message")) == [
        ("slot-003", "Archived"),
        ("slot-002", "Archived"),
    ]


def test_the_way_back_out_of_the_archive(admin: Client) -> None:
    Slot.objects.filter(pk="slot-002").archive()
    admin.post(f"{LIST}?archived=yes", {"action": "restore", "_selected_action": ["slot-002"]})
    assert Slot.objects.get(pk="slot-002").archived_at is None


def test_switching_names_what_it_changed_and_only_that(admin: Client) -> None:
    set_slot("slot-002", is_active=False)
    before = Slot.objects.get(pk="slot-001").updated_at
    assert "Switched off: slot-001." in act(admin, "switch_off", "slot-001", "slot-002")
    slot = Slot.objects.get(pk="slot-001")
    assert not slot.is_active
    assert slot.updated_at > before
    assert "Switched on: slot-001, slot-002." in act(admin, "switch_on", "slot-001", "slot-002")
    assert "Nothing to do" in act(admin, "switch_on", "slot-001")


@pytest.mark.parametrize("action", ["archive", "restore", "switch_on", "switch_off", "delete_selected"])
def test_who_may_only_look_changes_nothing(action: str) -> None:
    viewer = browser("slots.view_slot")
    before = list(Slot.objects.values())
    act(viewer, action, "slot-001")
    assert viewer.post(change_url(), form("noir")).status_code == 403
    assert list(Slot.objects.values()) == before


def test_who_may_only_look_sees_operation_and_settings() -> None:
    page = text_of(browser("slots.view_slot").get(change_url("slot-003")))
    assert "Studio (built in): Look" in page
    assert '"look": "sepia"' in page


def test_slots_are_never_deleted(admin: Client) -> None:
    assert admin.post(reverse("admin:slots_slot_delete", args=["slot-001"]), {"post": "yes"}).status_code == 403
    act(admin, "delete_selected", "slot-001")
    assert Slot.objects.filter(pk="slot-001").exists()


@pytest.mark.parametrize(
    ("data", "mime_type", "extension"), [(jpeg(), "image/jpeg", "jpg"), (png(), "image/png", "png")]
)
def test_an_upload_is_what_its_bytes_are(admin: Client, data: bytes, mime_type: str, extension: str) -> None:
    assert upload(admin, data, "evil.svg").status_code == 302
    media = TemplateMedia.objects.get()
    assert (media.mime_type, media.size_bytes, media.label) == (mime_type, len(data), "Mood")
    assert len(media.checksum) == 64
    assert media.uploaded_by is not None
    assert stored_files() == [f"templates/{media.pk}.{extension}"]


@pytest.mark.parametrize(
    "data",
    [
        b"<svg xmlns='http://www.w3.org/2000/svg'/>",
        b"GIF89a" + bytes(100),
        jpeg(800, 600)[:3000],
        png(size=(500, 500))[:200],
        pytest.param(b"\0" * (20 * 1024 * 1024 + 1), id="too large"),
    ],
)
def test_what_is_no_whole_image_is_refused_and_leaves_nothing(admin: Client, data: bytes) -> None:
    assert list(errors_of(upload(admin, data))) == ["file"]
    assert not TemplateMedia.objects.exists()
    assert stored_files() == []


def test_an_image_of_too_many_pixels_is_refused(admin: Client, settings: Any) -> None:
    settings.INGEST_MAX_PIXELS = 1_000_000
    errors = errors_of(upload(admin, png("RGB", (1001, 1000))))
    assert errors == {"file": ["The image has more than 1 megapixels, or more than 65500 pixels a side."]}


def test_the_preview_is_for_staff_who_may_look(admin: Client) -> None:
    media = add_media(admin, jpeg(3000, 2000))
    address = reverse("admin:slots_templatemedia_preview", args=[media.pk])
    answer = browser("slots.view_templatemedia").get(address)
    assert images.probe(answer.content).width < 800
    assert "private" in answer.headers["Cache-Control"]
    assert browser("slots.view_slot").get(address).status_code == 403
    assert Client().get(address).url.startswith("/admin/login/")  # type: ignore[attr-defined]


def test_no_page_links_to_the_file_and_it_has_no_public_address(admin: Client) -> None:
    media = add_media(admin)
    TemplateBinding.objects.create(slot_id="slot-001", setting_key="mood", media=media)
    address = reverse("admin:slots_templatemedia_change", args=[media.pk])
    for page in (address, MEDIA_LIST, change_url()):
        content = admin.get(page).content.decode()
        assert str(media.file.name) not in content
        assert reverse("admin:slots_templatemedia_preview", args=[media.pk]) in content
    assert admin.get(f"/{media.file.name}").status_code == 404


def test_the_file_stays_and_the_label_changes(admin: Client) -> None:
    media = add_media(admin)
    file = SimpleUploadedFile("other.jpg", jpeg(colour="red"))
    address = reverse("admin:slots_templatemedia_change", args=[media.pk])
    assert admin.post(address, {"file": file, "label": "Evening"} | read_version(admin.get(address))).status_code == 302
    changed = TemplateMedia.objects.get()
    assert (changed.label, changed.checksum) == ("Evening", media.checksum)
    assert files.read(str(changed.file.name)) == jpeg()


def test_the_list_of_template_images_says_where_they_are_used(admin: Client, django_assert_num_queries: Any) -> None:
    for colour in ("red", "green", "blue"):
        upload(admin, jpeg(colour=colour), label=colour)
    for media in TemplateMedia.objects.all():
        TemplateBinding.objects.create(slot_id="slot-002", setting_key=media.label, media=media)
    with django_assert_num_queries(6):  # session, user, two counts, rows, bindings
        page = text_of(admin.get(MEDIA_LIST))
    assert "slot-002: red" in page


@pytest.mark.parametrize("way", ["page", "action"])
@pytest.mark.usefixtures("database")
def test_deleting_is_refused_while_a_slot_uses_it_then_takes_the_file_along(admin: Client, way: str) -> None:
    media = add_media(admin)
    binding = TemplateBinding.objects.create(slot_id="slot-001", setting_key="mood", media=media)
    page = reverse("admin:slots_templatemedia_delete", args=[media.pk]), {"post": "yes"}
    action = MEDIA_LIST, {"action": "delete_selected", "_selected_action": [media.pk], "post": "yes"}
    address, data = page if way == "page" else action
    assert "slot-001: mood" in text_of(admin.post(address, data))
    assert stored_files() == [media.file.name]
    binding.delete()
    admin.post(address, data)
    assert not TemplateMedia.objects.exists()
    assert stored_files() == []
