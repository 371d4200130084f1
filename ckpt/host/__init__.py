"""The running kernel: BTF, BPF, ptrace, /proc, system calls, page maps, probes."""
