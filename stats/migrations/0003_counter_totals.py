from django.contrib.postgres.fields import ArrayField
from django.db import migrations, models

COUNTS = (
    "ingest_count, success, timeouts, provider_errors, cancelled, errors, late_answers, duration_seconds, "
    "wait_seconds, attempts, attempt_errors, provider_seconds, polls"
)
SUMS = ", ".join(f"sum({column})" for column in COUNTS.split(", "))
DURATIONS, WAITS = (
    ", ".join(f"sum({column}[{i}])" for i in range(1, length + 1))
    for column, length in (("duration_buckets", 12), ("wait_buckets", 10))
)
FILL = f"""
INSERT INTO stats_countertotal (slot_id, provider_id, {COUNTS}, duration_buckets, wait_buckets)
SELECT slot_id, provider_id, {SUMS}, ARRAY[{DURATIONS}], ARRAY[{WAITS}]
FROM stats_hourlycounter WHERE source = 'booth' GROUP BY 1, 2
"""
TUNE = "ALTER TABLE stats_countertotal SET (fillfactor = 50)"  # as the other counters


class Migration(migrations.Migration):
    dependencies = [("slots", "0003_first_slots"), ("stats", "0002_tune_tables")]
    operations = [
        migrations.CreateModel(
            name="CounterTotal",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                ("ingest_count", models.PositiveIntegerField(db_default=0)),
                ("success", models.PositiveIntegerField(db_default=0)),
                ("timeouts", models.PositiveIntegerField(db_default=0)),
                ("provider_errors", models.PositiveIntegerField(db_default=0)),
                ("cancelled", models.PositiveIntegerField(db_default=0)),
                ("errors", models.PositiveIntegerField(db_default=0)),
                ("late_answers", models.PositiveIntegerField(db_default=0)),
                ("duration_seconds", models.FloatField(db_default=0)),
                (
                    "duration_buckets",
                    ArrayField(models.PositiveIntegerField()),
                ),
                ("wait_seconds", models.FloatField(db_default=0)),
                (
                    "wait_buckets",
                    ArrayField(models.PositiveIntegerField()),
                ),
                ("attempts", models.PositiveIntegerField(db_default=0)),
                ("attempt_errors", models.PositiveIntegerField(db_default=0)),
                ("provider_seconds", models.FloatField(db_default=0)),
                ("polls", models.PositiveIntegerField(db_default=0)),
                ("provider_id", models.CharField(max_length=32)),
                (
                    "slot",
                    models.ForeignKey(
                        db_constraint=False,
                        db_index=False,
                        on_delete=models.PROTECT,
                        to="slots.slot",
                    ),
                ),
            ],
            options={
                "constraints": [models.UniqueConstraint(fields=("slot", "provider_id"), name="counter_total_once")],
            },
        ),
        migrations.RunSQL(TUNE, migrations.RunSQL.noop),
        migrations.RunSQL(FILL, migrations.RunSQL.noop),
    ]
