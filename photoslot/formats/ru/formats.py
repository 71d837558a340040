"""Photos come seconds apart, so times are shown to the second."""

DATETIME_FORMAT = "d.m.Y H:i:s"
