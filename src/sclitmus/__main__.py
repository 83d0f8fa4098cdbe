"""`python -m sclitmus` is `sclitmus`."""

from sclitmus.cli import main

main()
