"""The lab's own problems, and how its models were made."""
