"""The compiled decoder for CPUs: C sources, their binding, and the decoder over them."""
