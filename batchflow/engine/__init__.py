"""Publishes, claims, delivers and settles."""
