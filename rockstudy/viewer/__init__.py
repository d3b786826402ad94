"""The token viewer: rollouts as text, a colour for each token, and what the models would write."""
