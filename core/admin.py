"""Shared by the rooms' model admins: pages that overwrite nobody's change, lists that stay fast with any number of
rows, formatted JSON, and badges."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from datetime import datetime
from typing import Any, ClassVar

from django import forms
from django.contrib import admin
from django.contrib.admin.models import LogEntry
from django.contrib.admin.views.main import ChangeList
from django.contrib.contenttypes.models import ContentType
from django.core import serializers
from django.core.paginator import Paginator
from django.db import connection
from django.db.models import Model, QuerySet
from django.http import HttpRequest
from django.utils import timezone
from django.utils.crypto import salted_hmac
from django.utils.formats import date_format
from django.utils.functional import cached_property
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.translation import gettext
from django.utils.translation import gettext_lazy as _

STYLES = {"all": ["core/admin.css"]}
UUID_IN_TEXT = re.compile(r"[0-9a-f]{8}-(?:[0-9a-f]{4}-){3}[0-9a-f]{12}", re.IGNORECASE)

# A list counts and pages through this many rows, newest first; older rows are found with the filters. Counting a
# million takes a tenth of a second and more, for a number that nobody reads.
COUNT_LIMIT = 10_000


class VersionField(forms.CharField):
    """When a page was opened, and a digest of the rows that it showed then. It never counts as changed."""

    def __init__(self) -> None:
        super().__init__(required=False, widget=forms.HiddenInput)

    def has_changed(self, initial: Any, data: Any) -> bool:
        return False


class VersionedForm(forms.ModelForm):  # type: ignore[type-arg]
    """Refuses to save if somebody has changed the object since its page was opened: says who changed what, and keeps
    what was entered. Saved once more, it replaces that change. Use it with `VersionedAdmin`."""

    version = VersionField()
    unversioned: ClassVar[frozenset[str]] = frozenset({"last_login"})  # columns that change without anybody's edit

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        is_saved = not self.instance._state.adding  # noqa: SLF001 - Django documents it
        self.digest = _make_digest(self.list_versioned_rows(), self.unversioned) if is_saved else ""
        self.fields["version"].initial = f"{timezone.now().isoformat()} {self.digest}"

    def list_versioned_rows(self) -> Sequence[Model]:
        """What the page shows: the object, and the rows of its inlines."""
        return [self.instance]

    def clean(self) -> None:
        super().clean()
        opened_at, _space, digest = self.cleaned_data["version"].partition(" ")
        if self.digest and digest != self.digest:
            self.add_error(None, [_CONFLICT, *_list_changes(self.instance, opened_at)])
            data: Any = self.data  # a QueryDict, which cannot be changed
            self.data = data = data.copy()
            data["version"] = self.fields["version"].initial


class VersionedAdmin(admin.ModelAdmin):  # type: ignore[type-arg]
    """Of two who edit an object at once, the second one is told; and no save undoes what another one writes meanwhile,
    though Django's saves write all columns."""

    form = VersionedForm
    change_form_template = "admin/core/versioned_form.html"

    def get_object(self, request: HttpRequest, object_id: str, from_field: str | None = None) -> Any:
        """A post's object is locked before it is read and until it is saved. `no_key`: rows that refer to it can be
        added meanwhile, such as photos for a slot."""
        found = super().get_object(request, object_id, from_field)
        if found is None or request.method != "POST" or not connection.in_atomic_block:
            return found
        locked = self.get_queryset(request).select_for_update(of=("self",), no_key=True)
        return locked.filter(pk=found.pk).first()


_CONFLICT = _(
    "Nothing is saved yet: this was changed after you opened the page. What you entered is still here. Open the page a "
    "second time to see what has changed; if you save this one again, it replaces that."
)


def _make_digest(rows: Sequence[Model], unversioned: frozenset[str]) -> str:
    """Of all their columns but these."""
    fields = {field.name for row in rows for field in (*row._meta.fields, *row._meta.many_to_many)}  # noqa: SLF001
    fields -= unversioned
    return salted_hmac("core.admin.version", serializers.serialize("json", rows, fields=fields)).hexdigest()


def _list_changes(row: Model, since: str) -> list[str]:
    """Who changed what of it since then, by the admin or the API."""
    try:
        opened_at = datetime.fromisoformat(since)
    except ValueError:  # the page was not ours
        return []
    entries = LogEntry.objects.filter(
        content_type=ContentType.objects.get_for_model(row), object_id=row.pk, action_time__gte=opened_at
    )
    return [
        f"{entry.user.get_username()}, {date_format(timezone.localtime(entry.action_time), 'DATETIME_FORMAT')}: "
        f"{entry.get_change_message()}"
        for entry in entries.select_related("user").order_by("action_time")
    ]


class CappedCount(int):
    """A count that stopped at its limit; its text says "more than"."""

    def __str__(self) -> str:
        return gettext("more than %(count)s") % {"count": int(self)}


class BoundedPaginator(Paginator):  # type: ignore[type-arg]
    @cached_property
    def count(self) -> int:
        rows: Any = self.object_list
        found = rows.order_by()[: COUNT_LIMIT + 1].count()
        return CappedCount(COUNT_LIMIT) if found > COUNT_LIMIT else int(found)


class HistoryList(ChangeList):
    def get_ordering(self, request: HttpRequest, queryset: QuerySet[Any]) -> list[Any]:
        """Always the admin's own, whatever the query string says: `sortable_by` only hides the links."""
        return list(self.model_admin.get_ordering(request))


class HistoryAdmin(admin.ModelAdmin):  # type: ignore[type-arg]
    """Read-only rows that the service writes. Sorting and searching use indexes only; `ordering` must match an index
    and end with a unique field."""

    paginator = BoundedPaginator
    show_full_result_count = False
    show_facets = admin.ShowFacets.NEVER
    sortable_by = ()
    actions_selection_counter = False  # hides "Select all 10,000": no action is for a whole history
    search_help_text = _("A job's id, or a link that has it.")
    quick_lookups: frozenset[str] = frozenset()  # query parameters allowed besides the filters' own

    class Media:
        css = STYLES

    def get_changelist(self, request: HttpRequest, **kwargs: Any) -> type[ChangeList]:
        return HistoryList

    def has_add_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        return False

    def lookup_allowed(self, lookup: str, value: str, request: HttpRequest | None = None) -> bool:
        return lookup in self.quick_lookups

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[Any], search_term: str
    ) -> tuple[QuerySet[Any], bool]:
        """Matches the one field of `search_fields`, a UUID, which may be inside a pasted link."""
        if not search_term:
            return queryset, False
        found = UUID_IN_TEXT.search(search_term)
        return (queryset.filter(**{self.search_fields[0]: found[0]}) if found else queryset.none()), False


def format_json(value: object) -> SafeString:
    """Indented JSON."""
    return format_html('<pre class="pretty">{}</pre>', json.dumps(value, indent=2, ensure_ascii=False, default=str))


def badge(kind: str, text: str) -> SafeString:
    """A label in the colour of its kind."""
    return format_html('<span class="state state-{}">{}</span>', kind, text)
