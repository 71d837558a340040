"""Shared by the rooms' model admins: lists that stay fast with any number of rows, formatted JSON, and badges."""

from __future__ import annotations

import json
import re
from typing import Any

from django.contrib import admin
from django.contrib.admin.views.main import ChangeList
from django.core.paginator import Paginator
from django.db.models import Model, QuerySet
from django.http import HttpRequest
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
