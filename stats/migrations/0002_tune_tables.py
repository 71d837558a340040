from django.db import migrations

# Counters are updated all the time: room on each page keeps updates beside their rows (HOT).
TUNE = """
ALTER TABLE stats_hourlycounter SET (fillfactor = 50);
ALTER TABLE stats_hourlytotal SET (fillfactor = 50);
ALTER TABLE stats_slotfigures SET (fillfactor = 50);
"""
RESET = """
ALTER TABLE stats_hourlycounter RESET (fillfactor);
ALTER TABLE stats_hourlytotal RESET (fillfactor);
ALTER TABLE stats_slotfigures RESET (fillfactor);
"""


class Migration(migrations.Migration):
    dependencies = [("stats", "0001_initial")]
    operations = [migrations.RunSQL(TUNE, RESET)]
