"""Staff's own accounts in the admin, and the site's name."""

from __future__ import annotations

from typing import Any

from axes.models import AccessFailureLog, AccessLog
from django.contrib import admin
from django.contrib.auth import get_user_model
from django.contrib.auth.admin import GroupAdmin, UserAdmin
from django.contrib.auth.forms import ReadOnlyPasswordHashField, ReadOnlyPasswordHashWidget, UserChangeForm
from django.contrib.auth.models import Group
from django.db import transaction
from django.http import HttpRequest, HttpResponse
from django.utils.translation import gettext
from django.utils.translation import gettext_lazy as _

from core.admin import VersionedAdmin, VersionedForm

admin.site.site_header = admin.site.site_title = "photoslot"
admin.site.index_title = _("Photo booths")
admin.site.site_url = None  # no "View site" link: booths and guests have URLs of their own


class NoHashWidget(ReadOnlyPasswordHashWidget):
    """Shows the button to set another password, and no part of the hash."""

    def get_context(self, name: str, value: Any, attrs: dict[str, Any] | None) -> dict[str, Any]:
        return super().get_context(name, value, attrs) | {"summary": [{"label": gettext("Stored as a hash only.")}]}


class StaffForm(VersionedForm, UserChangeForm):  # type: ignore[type-arg]
    password = ReadOnlyPasswordHashField(label=_("Password"), widget=NoHashWidget)


admin.site.unregister([get_user_model(), Group, AccessLog, AccessFailureLog])  # axes' two tables stay empty


@admin.register(get_user_model())
class StaffAdmin(VersionedAdmin, UserAdmin):  # type: ignore[type-arg]
    form = StaffForm

    def user_change_password(self, request: HttpRequest, id: str, form_url: str = "") -> HttpResponse:
        """In one transaction, as the other pages: the user is locked while the new password is hashed."""
        with transaction.atomic():
            return super().user_change_password(request, id, form_url)


@admin.register(Group)
class StaffGroupAdmin(VersionedAdmin, GroupAdmin):
    pass
