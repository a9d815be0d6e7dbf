"""Bad networks without `tc netem`: wires between network namespaces whose packets pass a program that spoils them."""
