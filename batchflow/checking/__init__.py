"""What makes a durable function unsafe to replay, found in its source: syntax trees in, findings out."""
