//! Kernel contact: the only userspace crate with aya or unsafe.
