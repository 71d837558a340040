"""Shared by every room: errors and their envelope, images, secrets, logs, the bounded connection pool, and the base
classes of the model admins.

Knows no other room.
"""
