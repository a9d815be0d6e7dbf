"""How control traffic, work and memory grow with the plant: `make growth` prints the tables of docs/scaling.md."""
