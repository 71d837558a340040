from __future__ import annotations

from typing import Any

from django.core.management.base import BaseCommand, CommandError
from django.db import transaction

from photoslot import crypto
from providers.models import ProviderAccount


class Command(BaseCommand):
    help = "Encrypts all stored keys anew with the first of FERNET_KEYS; then the others can be dropped."

    def handle(self, *args: Any, **options: Any) -> None:
        with transaction.atomic():
            for account in ProviderAccount.objects.select_for_update():
                try:
                    account.encrypted_key = crypto.rotate(account.encrypted_key)
                    account.encrypted_proxy_url = crypto.rotate(account.encrypted_proxy_url)
                except crypto.UnreadableSecretError:
                    raise CommandError(
                        f"None of FERNET_KEYS decrypts the key of {account.provider_id}. Nothing was changed. "
                        "Add the key that it was written with, or enter the provider's key anew in the admin."
                    ) from None
                account.save(update_fields=["encrypted_key", "encrypted_proxy_url"])
        self.stdout.write("All keys are encrypted with the first of FERNET_KEYS.")
