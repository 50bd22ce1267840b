"""The Triton sources. Importing a module here imports triton; a node never does: it has the compiled kernels."""
