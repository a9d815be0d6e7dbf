"""`python -m controller` is `ferrule-controller`."""

from controller.program import main

main()
