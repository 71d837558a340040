"""Slots and their template media."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from functools import partial
from itertools import count

from django.conf import settings
from django.core.validators import MaxValueValidator, MinValueValidator, RegexValidator
from django.db import models
from django.db.models.functions import Now
from django.urls import reverse
from django.utils.functional import cached_property
from django.utils.translation import gettext_lazy as _

from slots import settings_validation


class SlotQuerySet(models.QuerySet["Slot"]):
    def archive(self) -> int:
        """Booths get 404 from now on; jobs under way continue. Returns how many slots it archived."""
        return self.filter(archived_at=None).update(archived_at=Now(), updated_at=Now())

    def restore(self) -> int:
        return self.exclude(archived_at=None).update(archived_at=None, updated_at=Now())

    def switch(self, on: bool) -> int:
        return self.filter(is_active=not on).update(is_active=on, updated_at=Now())


class Slot(models.Model):
    """A named provider, operation and settings. Editing it does not affect jobs under way: a job has its own copy."""

    id = models.CharField(
        _("slot"),
        primary_key=True,
        max_length=32,
        validators=[RegexValidator(r"^slot-\d{3,}$", _("A slot's id looks like slot-001."))],
    )
    name = models.CharField(_("name"), max_length=120)
    provider_id = models.CharField(_("provider"), max_length=32)
    operation_id = models.CharField(_("operation"), max_length=32)
    settings_json = models.JSONField(_("settings"), default=dict, blank=True)
    is_active = models.BooleanField(_("on"), default=True, help_text=_("A slot that is off answers booths with 404."))
    archived_at = models.DateTimeField(_("archived"), null=True, blank=True, editable=False)
    size_limit_mb = models.PositiveIntegerField(
        _("largest photo, MB"),
        null=True,
        blank=True,
        validators=[MinValueValidator(1), MaxValueValidator(2048)],
        help_text=_("Empty: the limit of the whole service."),
    )
    created_at = models.DateTimeField(_("created"), db_default=Now(), editable=False)
    updated_at = models.DateTimeField(_("changed"), auto_now=True)

    objects = SlotQuerySet.as_manager()

    class Meta:
        verbose_name = _("slot")
        verbose_name_plural = _("slots")
        ordering = ["id"]

    def __str__(self) -> str:
        return f"{self.id} · {self.name}"

    def clean(self) -> None:
        """Raises `ValidationError` unless the slot can work: for forms, and for checking it again later."""
        readers = {key: partial(_read_template, media_id) for key, media_id in self.templates.items()}
        settings_validation.validate(self.provider_id, self.operation_id, self.settings_json, readers)

    @cached_property
    def templates(self) -> Mapping[str, uuid.UUID | None]:
        """The template images, by the keys that the settings may name. A form that changes them sets those that will
        result; None: not chosen yet."""
        return {} if self._state.adding else dict(self.bindings.values_list("setting_key", "media_id"))

    @staticmethod
    def next_id() -> str:
        """The first id that is free."""
        taken = set(Slot.objects.values_list("pk", flat=True))
        return next(pk for number in count(1) if (pk := f"slot-{number:03d}") not in taken)

    @property
    def ingest_url(self) -> str:
        return settings.PUBLIC_BASE_URL + reverse("ingest", args=[self.pk])


def template_path(media: TemplateMedia, filename: str) -> str:
    return f"templates/{media.pk}.{filename.rpartition('.')[2]}"


class TemplateMedia(models.Model):
    """A permanent reference image. The file never changes; another picture is another row."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    file = models.FileField(_("file"), upload_to=template_path, max_length=100)
    label = models.CharField(_("label"), max_length=120, blank=True)
    mime_type = models.CharField(_("type"), max_length=40, editable=False)
    size_bytes = models.PositiveBigIntegerField(_("size, bytes"), editable=False)
    checksum = models.CharField(_("SHA-256"), max_length=64, editable=False)
    uploaded_by = models.ForeignKey(
        settings.AUTH_USER_MODEL,
        models.SET_NULL,
        null=True,
        editable=False,
        related_name="+",
        verbose_name=_("uploaded by"),
    )
    created_at = models.DateTimeField(_("uploaded"), db_default=Now(), editable=False)

    class Meta:
        verbose_name = _("template image")
        verbose_name_plural = _("template images")
        ordering = ["-created_at"]

    def __str__(self) -> str:
        return self.label or str(self.pk)

    def read(self) -> bytes:
        """The image. Raises `OSError`."""
        with self.file.open() as file:
            data: bytes = file.read()
            return data


def _read_template(media_id: uuid.UUID | None) -> bytes:
    media = media_id and TemplateMedia.objects.filter(pk=media_id).first()
    if not media:
        raise FileNotFoundError
    return media.read()


class TemplateBinding(models.Model):
    """A slot's settings name a template image by `setting_key`."""

    slot = models.ForeignKey(Slot, models.CASCADE, related_name="bindings", verbose_name=_("slot"))
    setting_key = models.CharField(
        _("key"), max_length=64, validators=[RegexValidator(r"^[a-z][a-z0-9_-]*$", _("Use a-z, 0-9, - and _."))]
    )
    media = models.ForeignKey(TemplateMedia, models.PROTECT, related_name="bindings", verbose_name=_("image"))

    class Meta:
        verbose_name = _("template image of a slot")
        verbose_name_plural = _("template images of the slot")
        constraints = [
            # Settings name an image by its key, so a key means one image.
            models.UniqueConstraint(fields=["slot", "setting_key"], name="binding_key_once_per_slot"),
        ]

    def __str__(self) -> str:
        return f"{self.slot_id}: {self.setting_key}"


class SlotChange(models.Model):
    """An entry of a slot's history: its row, or that of one of its images, before and after a change. Triggers write
    it (`slots.history`); it is never changed or removed."""

    slot = models.ForeignKey(Slot, models.DO_NOTHING, related_name="changes", db_constraint=False, db_index=False)
    at = models.DateTimeField()
    username = models.CharField(max_length=150, null=True)  # as it was then; null: not written by staff
    before = models.JSONField(null=True)  # null: the slot is new
    after = models.JSONField()

    class Meta:
        default_permissions = ()  # the permission to view the slot covers its history
        indexes = [models.Index(fields=["slot", "-id"], name="change_newest_of_slot")]  # a page of the history
