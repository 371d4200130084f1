"""Checkpoint and restore of running Linux processes, with the sight that BPF gives."""
