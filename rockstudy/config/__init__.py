"""The fields of a study, its presets, and new values for them."""
