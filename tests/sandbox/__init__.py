"""A provider to talk to: a server on a real socket that plays what a test asks for and keeps a journal of it."""
