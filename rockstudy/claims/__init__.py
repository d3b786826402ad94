"""The paper's numbers, the rules of verdicts, and their record."""
