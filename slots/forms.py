"""The form of a slot: its own fields, and those of its operation's settings (`fields`)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any
from uuid import UUID

from django import forms
from django.core.exceptions import ValidationError
from django.db.models import Model
from django.forms.utils import ErrorDict
from django.urls import reverse
from django.utils.html import escape, format_html
from django.utils.translation import gettext_lazy as _

from core.admin import VersionedForm
from providers import declaration, registry
from providers.declaration import Group
from slots import fields, settings_validation
from slots.fields import PREFIX
from slots.models import TemplateBinding


class SlotForm(VersionedForm):
    """Provider and operation are one choice, so that they always belong together.

    The form has the settings fields of the chosen operation. A post with `_redraw` is neither validated nor saved: the
    form comes back with the fields of another operation, and keeps what was typed in a setting that both have.
    """

    class Meta:
        error_messages = {"id": {"unique": _("There is a slot with this id already.")}}

    use_required_attribute = False  # or browsers would not submit pasted settings alone
    recipe = forms.ChoiceField(label=_("Provider and operation"), widget=forms.Select({"autocomplete": "off"}))
    settings_json = fields.PrettyJSONField(
        label=_("All settings"),
        required=False,
        widget=forms.Textarea({"rows": 6, "cols": 90, "spellcheck": "false", "class": "vLargeTextField code"}),
        help_text=_("Paste a JSON object here, and it is saved instead of all that the fields above say."),
    )

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.is_redraw = "_redraw" in self.data
        self.is_pasted = bool(self.data.get("settings_json", "").strip()) and not self.is_redraw
        self.templates = self._collect_templates()
        self.initial["settings_json"] = None  # it is for pasting
        recipe = self._offer_recipes()
        operation = registry.get_operation(*recipe.split("/", 1)) if "/" in recipe else None
        self.groups = declaration.list_groups(operation) if operation else []
        for group in self.groups:
            self._add_fields(group)

    def list_versioned_rows(self) -> Sequence[Model]:
        return [self.instance, *self.instance.bindings.order_by("pk")]

    def _offer_recipes(self) -> str:
        """Fills the choices of `recipe`, and returns the one that is chosen now."""
        saved = f"{self.instance.provider_id}/{self.instance.operation_id}" if self.instance.provider_id else ""
        field = self.fields["recipe"]
        assert isinstance(field, forms.ChoiceField)
        field.choices = choices = _list_recipes(saved)
        field.initial = saved or choices[0][0]
        field.help_text = format_html(
            '<button name="_redraw" value="1" class="button" formnovalidate>{}</button> '
            '<a href="{}" target="_blank">{}</a>',
            _("Show its settings"),
            reverse("admin:slots_slot_operations"),
            _("What the settings mean"),
        )
        return str(self["recipe"].value() or "")

    def _add_fields(self, group: Group) -> None:
        saved = self.instance.settings_json
        initial = fields.initial_values(saved, group) if isinstance(saved, dict) else {}
        for setting in group.settings:
            name = PREFIX + setting.path
            value = None if self.is_redraw else self.data.get(name, initial.get(setting.path))
            field = fields.make_field(setting, self.templates.keys(), value)
            field.required = setting.is_required and not self.is_pasted
            field.initial = initial.get(
                setting.path, setting.default if setting.schema.get("type") == "boolean" else None
            )
            self.fields[name] = field

    def fieldsets(self) -> list[tuple[str, dict[str, Any]]]:
        """For the admin: one per group; objects that are not set are collapsed."""
        return [
            (
                str(group.title),
                {
                    "fields": [PREFIX + setting.path for setting in group.settings],
                    "description": escape(group.description),
                    "classes": ["collapse"] if group.path and self._is_empty(group) else [],
                },
            )
            for group in self.groups
        ]

    def _is_empty(self, group: Group) -> bool:
        return not any(self[PREFIX + setting.path].value() for setting in group.settings)

    def full_clean(self) -> None:
        if self.is_redraw:
            self._errors, self.cleaned_data = ErrorDict(), {}
        else:
            super().full_clean()

    def is_valid(self) -> bool:
        return not self.is_redraw and super().is_valid()

    def clean(self) -> None:
        super().clean()
        provider_id, _slash, operation_id = self.cleaned_data.get("recipe", "").partition("/")
        self.instance.provider_id, self.instance.operation_id = provider_id, operation_id
        self.instance.templates = self.templates
        if not self.is_pasted:
            settings = [setting for group in self.groups for setting in group.settings]
            self.cleaned_data["settings_json"] = fields.build_settings_json(settings, self.cleaned_data)
        # Django itself would not assign {}, which counts as empty.
        self.instance.settings_json = self.cleaned_data.get("settings_json", {})

    def add_error(self, field: str | None, error: Any) -> None:
        """Shows each error once, beside its field."""
        if isinstance(error, ValidationError) and hasattr(error, "error_dict"):
            by_field: dict[str, list[Any]] = {}
            for name, problems in error.error_dict.items():
                for problem in problems:
                    field_name = self._find_field(name, settings_validation.setting_path(problem))
                    by_field.setdefault(field_name, []).append(
                        settings_validation.setting_message(problem) if field_name.startswith(PREFIX) else problem
                    )
            error = ValidationError({k: v for k, v in by_field.items() if k not in self.errors})
        super().add_error(field, error)

    def _find_field(self, name: str, path: str) -> str:
        """The field of the setting at `path`, or of the setting that contains it, or the first within it."""
        if name in ("provider_id", "operation_id"):
            return "recipe"
        if name != "settings_json" or self.is_pasted or not path:
            return name
        parts = path.split(".")
        above = (PREFIX + ".".join(parts[:length]) for length in range(len(parts), 0, -1))
        below = (field for field in self.fields if field.startswith(f"{PREFIX}{path}."))
        return next((field for field in above if field in self.fields), next(below, name))

    def _collect_templates(self) -> dict[str, UUID | None]:
        """The template images that the slot will have once those of the same form are saved, by key."""
        saved = TemplateBinding.objects.filter(slot_id=self.instance.pk)
        found: dict[int | str, tuple[str, UUID | None]] = {
            pk: (key, media_id) for pk, key, media_id in saved.values_list("pk", "setting_key", "media_id")
        }
        for name in self.data:
            if row := re.fullmatch(r"(bindings-\d+)-setting_key", name):
                pk = self.data.get(f"{row[1]}-id") or row[1]
                key = "" if self.data.get(f"{row[1]}-DELETE") else self.data[name]
                found[int(pk) if pk.isdigit() else pk] = key, _parse_id(self.data.get(f"{row[1]}-media"))
        return {key: media_id for key, media_id in found.values() if key}


def _parse_id(text: str | None) -> UUID | None:
    try:
        return UUID(text)
    except (TypeError, ValueError):  # the row has its own error for it
        return None


def _list_recipes(saved: str) -> list[tuple[str, str]]:
    """Providers and operations as choices; the saved one too if it is not offered any more."""
    offered = {
        f"{provider.id}/{operation.id}": f"{provider.name}: {operation.name}"
        for provider in registry.get_classes().values()
        for operation in provider.operations
    }
    return list(offered.items()) if saved in offered or not saved else [(saved, saved), *offered.items()]
