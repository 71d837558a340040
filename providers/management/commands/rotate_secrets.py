from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from django.core.management.base import BaseCommand, CommandError
from django.db import transaction

from core import crypto
from providers.models import ProviderAccount

SECRETS = {"encrypted_key": "the key", "encrypted_proxy_url": "the proxy address"}


class Command(BaseCommand):
    help = (
        "Encrypts all stored keys and proxy addresses anew with the first of FERNET_KEYS. To change the key: put the "
        "new one in front of the old, restart web and workers, run this, then drop the old key."
    )

    def handle(self, *args: Any, **options: Any) -> None:
        with transaction.atomic():
            accounts = ProviderAccount.objects.select_for_update()
            unreadable = [name for account in accounts for name in _rotate(account)]
        if unreadable:
            raise CommandError(
                f"None of FERNET_KEYS decrypts {', '.join(unreadable)}: left as before. Add the key that it was "
                "written with and run this again, or enter it anew in the admin. All others are done."
            )
        self.stdout.write("All secrets are encrypted with the first of FERNET_KEYS; the others can be dropped.")


def _rotate(account: ProviderAccount) -> Iterator[str]:
    """Encrypts the account's secrets again and saves them. Yields a description of each that cannot be decrypted."""
    for field, name in SECRETS.items():
        try:
            setattr(account, field, crypto.rotate(getattr(account, field)))
        except crypto.UnreadableSecretError:
            yield f"{name} of {account.provider_id}"
    account.save(update_fields=[*SECRETS])
