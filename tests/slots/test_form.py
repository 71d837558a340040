"""The fields that the slot's page has for the settings of its operation."""

from __future__ import annotations

from typing import Any

import pytest
from django import forms
from django.contrib.admin.models import LogEntry
from django.core.exceptions import ValidationError
from django.test import Client
from django.urls import reverse

from providers import declaration, registry
from providers.models import ProviderAccount
from slots import settings_validation
from slots.models import Slot, TemplateBinding, TemplateMedia
from tests.admin_client import browser, errors_of, text_of
from tests.conftest import set_slot
from tests.slots.form_data import ADD, change_url, paste_settings, settings, slot_page

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("rolled_back_database")]

OPERATION_IDS = [(provider.id, o.id) for provider in registry.get_classes().values() for o in provider.operations]
OPERATIONS = reverse("admin:slots_slot_operations")
PAINT = settings(prompt="Paint them.")


@pytest.fixture
def admin() -> Client:
    return browser(superuser=True)


@pytest.fixture
def template_images() -> None:
    """slot-001 has template images under mood and logo."""
    for key in ("mood", "logo"):
        media = TemplateMedia.objects.create(label=key, mime_type="image/png", size_bytes=1)
        TemplateBinding.objects.create(slot_id="slot-001", setting_key=key, media=media)


def get_form(answer: Any) -> Any:
    return answer.context["adminform"].form


def saved_settings() -> Any:
    return Slot.objects.get(pk="slot-001").settings_json


@pytest.mark.parametrize(("provider_id", "operation_id"), OPERATION_IDS)
def test_each_setting_of_the_chosen_operation_has_a_field(admin: Client, provider_id: str, operation_id: str) -> None:
    answer = admin.get(ADD, {"recipe": f"{provider_id}/{operation_id}"})
    operation = registry.get_operation(provider_id, operation_id)
    assert operation is not None
    for setting in declaration.list_settings(operation):
        assert f'name="settings.{setting.path}"' in answer.content.decode()
    names = {name for name in get_form(answer).fields if name.startswith("settings.")}
    assert names == {f"settings.{setting.path}" for setting in declaration.list_settings(operation)}


@pytest.mark.parametrize(
    ("recipe", "name", "widget", "attributes"),
    [
        ("studio/image_edit", "look", forms.Select, {}),
        ("studio/image_edit", "strength", forms.NumberInput, {"min": 0, "max": 100, "placeholder": "100"}),
        ("turbotext/image_edit", "scale", forms.NumberInput, {"min": 0.1, "max": 20, "step": "any"}),
        ("turbotext/image_edit", "original_language", forms.TextInput, {"placeholder": "ru"}),
        ("turbotext/identity_transfer", "face_restore", forms.CheckboxInput, {}),
        ("gemini/image_edit", "prompt", forms.Textarea, {}),
        ("gemini/image_edit", "model", forms.Select, {}),
        ("gemini/image_edit", "template_media", forms.TextInput, {}),
        ("gemini/image_edit", "safety_settings", forms.Textarea, {"rows": 3}),
        ("gemini/image_edit", "output.fit", forms.Select, {}),
    ],
)
def test_a_field_suits_its_setting(
    admin: Client, recipe: str, name: str, widget: type[forms.Widget], attributes: dict[str, Any]
) -> None:
    field = get_form(admin.get(ADD, {"recipe": recipe})).fields[f"settings.{name}"]
    assert type(field.widget) is widget
    assert field.widget.attrs.items() >= attributes.items()
    assert field.label
    assert field.help_text


def test_choices_have_names_and_say_what_holds_without_one(admin: Client) -> None:
    fields = get_form(admin.get(ADD)).fields
    assert ("sepia", "Sepia") in fields["settings.look"].choices
    assert next(iter(fields["settings.output.fit"].choices)) == ("", "default: cover")


def test_only_models_that_may_be_used_are_offered(admin: Client) -> None:
    offered = dict(get_form(admin.get(ADD, {"recipe": "gemini/image_edit"})).fields["settings.model"].choices)
    assert "gemini-3-pro-image" in offered
    assert "gemini-3-pro-image-preview" not in offered


def test_what_the_fields_say_is_saved_as_json(admin: Client, template_images: None) -> None:
    values = PAINT | settings(model="gemini-3-pro-image", style="mood", template_media="mood, logo", image_size="2K")
    values |= settings(safety_settings="[]", output__width="1200", retry__pause_seconds="0.5", retry__attempts="3")
    values |= settings(retry__repeat_ambiguous="on")
    assert admin.post(change_url(), slot_page("gemini/style_transfer", **values)).status_code == 302
    assert saved_settings() == {
        "prompt": "Paint them.",
        "model": "gemini-3-pro-image",
        "style": "mood",
        "template_media": ["mood", "logo"],
        "image_size": "2K",
        "output": {"width": 1200},
        "retry": {"pause_seconds": 0.5, "attempts": 3, "repeat_ambiguous": True},
    }


@pytest.mark.parametrize(
    "settings_json",
    [
        {"look": "poster", "strength": 0, "output": {"width": 1800, "format": "png"}, "retry": {"attempts": 2}},
        {"look": "poster", "output": {"format": "jpeg"}},
    ],
)
def test_a_slot_that_is_saved_untouched_stays_as_it_is(admin: Client, settings_json: dict[str, Any]) -> None:
    set_slot(settings_json=settings_json)
    form = get_form(admin.get(change_url()))
    shown = {name: form[name].value() for name in form.fields if name.startswith("settings.")}
    typed = {name: value for name, value in shown.items() if value is not None and value is not False}
    assert admin.post(change_url(), slot_page(**typed)).status_code == 302
    assert saved_settings() == settings_json


def test_an_object_of_defaults_only_is_not_lost(admin: Client) -> None:
    set_slot(settings_json={"look": "poster", "output": {}})
    assert get_form(admin.get(change_url()))["settings.output.format"].value() == "jpeg"


def test_lines_end_as_they_were_written(admin: Client) -> None:
    admin.post(change_url(), slot_page("gemini/image_edit", **settings(prompt="One.\r\nTwo.")))
    assert saved_settings() == {"prompt": "One.\nTwo."}


@pytest.mark.parametrize(
    ("recipe", "values", "field", "sentence"),
    [
        ("studio/image_edit", {}, "look", "This field is required."),
        ("studio/image_edit", {"look": "technicolor"}, "look", "Must be one of: "),
        ("studio/image_edit", {"look": "noir", "strength": "101"}, "strength", "Must be at most 100."),
        ("studio/image_edit", {"look": "noir", "strength": "much"}, "strength", "Enter a whole number."),
        ("studio/image_edit", {"look": "noir", "output__width": "4"}, "output.width", "Must be at least 16."),
        ("studio/image_edit", {"look": "noir", "frame": "gone"}, "frame", "The slot has no template image under"),
        ("gemini/image_edit", {"prompt": "x", "template_media": "a B"}, "template_media", "Use a-z, 0-9"),
        ("gemini/image_edit", {"prompt": "x", "template_media": "gone"}, "template_media", "The slot has no template"),
        ("gemini/image_edit", {"prompt": "x", "safety_settings": "[{]"}, "safety_settings", "Enter a valid JSON."),
        (
            "gemini/image_edit",
            {"prompt": "x", "safety_settings": "[{}]"},
            "safety_settings",
            "This setting is required",
        ),
        ("openai/image_edit", {"prompt": "x", "size": "99x99"}, "size", "Width and height must be multiples of 16."),
    ],
)
def test_a_fault_stands_beside_its_field(
    admin: Client, recipe: str, values: dict[str, Any], field: str, sentence: str
) -> None:
    answer = admin.post(change_url(), slot_page(recipe, **settings(**values)))
    errors = errors_of(answer)
    assert list(errors) == [f"settings.{field}"]
    assert errors[f"settings.{field}"][0].startswith(sentence)
    assert saved_settings() == {"look": "black_and_white"}


def test_a_retired_model_is_shown_and_refused_with_the_alternatives(admin: Client) -> None:
    settings_json = {"prompt": "x", "model": "gemini-3-pro-image-preview"}
    set_slot(provider_id="gemini", settings_json=settings_json)
    assert "gemini-3-pro-image-preview (not offered any more)" in text_of(admin.get(change_url()))
    answer = admin.post(change_url(), slot_page("gemini/image_edit", **settings(**settings_json)))
    (sentence,) = errors_of(answer)["settings.model"]
    assert sentence == "gemini-3-pro-image-preview was retired on 2026-06-25. Use: gemini-3-pro-image"
    assert get_form(answer)["settings.model"].value() == "gemini-3-pro-image-preview"


def test_another_operation_redraws_the_fields_and_saves_nothing(admin: Client) -> None:
    typed = slot_page("openai/image_edit", name="Typed", _redraw="1", **settings(look="noir", output__width="600"))
    answer = admin.post(change_url(), typed)
    form = get_form(answer)
    assert "settings.quality" in form.fields
    assert "settings.look" not in form.fields
    assert (form["name"].value(), form["settings.output.width"].value()) == ("Typed", "600")
    assert errors_of(answer) == {}
    assert "Please correct" not in text_of(answer)
    assert saved_settings() == {"look": "black_and_white"}


def test_a_choice_that_the_other_operation_does_not_have_is_dropped(admin: Client) -> None:
    typed = slot_page("openai/image_edit", _redraw="1", **settings(model="gemini-3-pro-image"))
    assert "gemini-3-pro-image" not in text_of(admin.post(change_url(), typed))


def test_saved_without_a_redraw_the_fields_at_fault_are_those_of_the_new_operation(admin: Client) -> None:
    answer = admin.post(change_url(), slot_page("gemini/style_transfer", **settings(look="noir")))
    assert set(errors_of(answer)) == {"settings.prompt", "settings.style"}


def test_the_page_that_explains_the_settings_has_all_of_them(admin: Client) -> None:
    page = admin.get(OPERATIONS)
    words = text_of(page)
    for provider_id, operation_id in OPERATION_IDS:
        operation = registry.get_operation(provider_id, operation_id)
        assert operation is not None
        assert f"{registry.get_provider_name(provider_id)}: {operation.name}" in words
        for setting in declaration.list_settings(operation):
            explanation = f"{setting.path} {setting.title} {setting.description} {setting.values}"
            assert " ".join(explanation.split()) in words
    assert OPERATIONS in admin.get(change_url()).content.decode()


def test_the_explanations_are_for_staff_who_may_look() -> None:
    assert browser("slots.view_slot").get(OPERATIONS).status_code == 200
    assert browser("jobs.view_job").get(OPERATIONS).status_code == 403
    assert Client().get(OPERATIONS).url.startswith("/admin/login/")  # type: ignore[attr-defined]


def test_the_slots_keys_are_offered(admin: Client, template_images: None) -> None:
    page = admin.get(change_url()).content.decode()
    assert '<option value="logo"></option><option value="mood"></option>' in page
    assert "The slot has: logo, mood." in page


@pytest.mark.parametrize(
    ("text", "sentences"),
    [
        ('{"look": "sepia",', ["Enter a valid JSON."]),
        ("null", ["Must be an object."]),
        ("{}", ["look: This setting is required."]),
        (
            {"look": "sepia", "strength": 101, "x": 1},
            ["strength: Must be at most 100.", "x: This operation has no such setting."],
        ),
    ],
)
def test_faults_of_pasted_json_stand_beside_it(admin: Client, text: Any, sentences: list[str]) -> None:
    answer = admin.post(change_url(), slot_page(**paste_settings(text)))
    assert errors_of(answer) == {"settings_json": sentences}


def test_pasted_json_goes_before_the_fields(admin: Client) -> None:
    both = settings(look="noir") | paste_settings({"look": "sepia", "strength": 5})
    answer = admin.post(change_url(), slot_page(**both))
    assert answer.status_code == 302
    assert saved_settings() == {"look": "sepia", "strength": 5}


def test_the_history_names_the_settings_that_changed(admin: Client) -> None:
    set_slot(name="New", settings_json={"look": "noir", "retry": {"repeat_ambiguous": True}})
    values = settings(look="noir", strength="7", template_media="", retry__repeat_ambiguous="on")
    assert admin.post(change_url(), slot_page(**values)).status_code == 302
    assert LogEntry.objects.get().get_change_message() == "Changed Strength."


def test_the_faults_of_a_whole_slot_can_be_had_by_field() -> None:
    slot = Slot(id="slot-016", provider_id="studio", operation_id="image_edit", settings_json={"output": {"width": 4}})
    with pytest.raises(ValidationError) as caught:
        slot.full_clean()
    assert settings_validation.group_by_field(caught.value) == {
        "name": ["This field cannot be blank."],
        "settings_json.look": ["This setting is required."],
        "settings_json.output.width": ["Must be at least 16."],
    }


def test_the_saved_json_can_be_read(admin: Client) -> None:
    assert "\n  &quot;look&quot;: &quot;poster&quot;" in admin.get(change_url("slot-014")).content.decode()


@pytest.mark.parametrize(
    ("public", "address", "is_fine"),
    [
        ("http://localhost:8000", "", False),
        ("https://photos.example.com", "", True),
        ("http://localhost:8000", "http://127.0.0.1:9000", True),  # a sandbox
    ],
)
def test_a_provider_that_fetches_photos_needs_a_public_address(
    admin: Client, settings: Any, public: str, address: str, is_fine: bool
) -> None:
    settings.PUBLIC_BASE_URL = public
    ProviderAccount.objects.update_or_create(pk="turbotext", defaults={"base_url": address})
    answer = admin.post(change_url(), slot_page("turbotext/image_edit", **PAINT))
    ProviderAccount.objects.filter(pk="turbotext").delete()
    assert (answer.status_code == 302) == is_fine
    assert is_fine or "set PUBLIC_BASE_URL" in errors_of(answer)["recipe"][0]
