"""`ferrule-edge doctor`: what keeps an edge from working on this machine, read from its rules, routes and files."""
