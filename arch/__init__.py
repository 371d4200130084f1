"""What only a CPU and its ABI decide, one package an architecture."""
