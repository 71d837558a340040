"""The worker: claims jobs, runs each with its slot's provider, and makes the picture what the slot wants."""
