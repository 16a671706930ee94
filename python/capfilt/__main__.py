"""`python -m capfilt`: the command."""

from ._command import main

main()
