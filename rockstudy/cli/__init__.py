"""The `rockstudy` command."""
