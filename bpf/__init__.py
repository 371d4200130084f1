"""BPF programs, one a file; sources only, compiled by `ckpt.host.bpf`."""
