from django.db import migrations

# The jobs table is rewritten all the time: room on each page keeps updates beside their rows (HOT), and vacuum comes
# after a thousand dead rows instead of a fifth of the table.
TUNE = """
ALTER TABLE jobs_job SET (fillfactor = 70, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000,
    autovacuum_analyze_scale_factor = 0.02);
ALTER TABLE jobs_process SET (fillfactor = 50);
"""
RESET = """
ALTER TABLE jobs_job RESET (fillfactor, autovacuum_vacuum_scale_factor, autovacuum_vacuum_threshold,
    autovacuum_analyze_scale_factor);
ALTER TABLE jobs_process RESET (fillfactor);
"""


class Migration(migrations.Migration):
    dependencies = [("jobs", "0001_initial")]
    operations = [migrations.RunSQL(TUNE, RESET)]
