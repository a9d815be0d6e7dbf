"""`python -m router`."""

from router.program import main

main()
