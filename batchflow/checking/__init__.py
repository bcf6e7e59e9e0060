"""Finds what makes a durable function unsafe to replay, in its source: syntax trees in, findings out."""
