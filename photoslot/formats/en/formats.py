"""Photos come seconds apart, so times are shown to the second."""

DATETIME_FORMAT = "Y-m-d H:i:s"
