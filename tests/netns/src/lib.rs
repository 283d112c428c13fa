//! Kernel tests T1 to T30: the capture design against this kernel.
