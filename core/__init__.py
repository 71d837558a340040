"""What every room stands on: errors and their envelope, images, secrets, logs, the bounded pool, and the bases of the
model admins.

Knows no other room.
"""
