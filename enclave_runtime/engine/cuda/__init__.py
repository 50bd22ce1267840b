"""Kernels for NVIDIA GPUs: written in Triton, compiled when an image is built, launched without any compiler."""
