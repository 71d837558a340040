"""The files of jobs, their thumbnails, temporary media and links."""
