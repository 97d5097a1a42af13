"""CUDA kernels of our own and what hands them their arrays; only the device profile asks for them."""
