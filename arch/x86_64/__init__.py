"""x86_64: registers, XSAVE, debug registers, syscall restart, vdso, seed and tape machine code."""
