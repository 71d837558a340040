from django.db import migrations, models
from django.db.models import Q


class Migration(migrations.Migration):
    dependencies = [("jobs", "0003_lost_claims")]
    operations = [
        migrations.AddIndex(
            "job",
            models.Index(
                fields=["expires_at"], condition=Q(result_inline_base64__isnull=False), name="job_inline_to_purge"
            ),
        ),
        migrations.AddField("purgetotal", "stored_bytes", models.PositiveBigIntegerField(null=True)),
    ]
