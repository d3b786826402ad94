"""`python -m rockstudy` is the `rockstudy` command, for launchers that start modules."""

from rockstudy.cli.main import main

main()
