"""Rock tokens: from rollouts to scored token types (notebooks 02 and 03)."""
