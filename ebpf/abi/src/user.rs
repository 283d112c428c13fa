//! Lets aya pass these types to and from the kernel.

use crate::{Event, FlowKey, NodeConfig, PodConfig, PodCounters, SteerConfig};

macro_rules! pod {
    ($($name:ty),*) => {
        $(
            // SAFETY: `repr(C)`, only integers and arrays of them, no padding (sizes asserted where the
            // type is defined), so every bit pattern is valid and every byte is initialised.
            unsafe impl aya::Pod for $name {}
        )*
    };
}

pod!(Event, FlowKey, NodeConfig, PodConfig, PodCounters, SteerConfig);
