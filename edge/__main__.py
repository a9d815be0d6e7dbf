"""`python -m edge`."""

from edge.program import main

main()
