"""Faster ways to compute a `DenseNet`: on a CPU without autograd, on a GPU with Triton."""
