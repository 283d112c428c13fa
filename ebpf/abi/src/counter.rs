//! What is counted per pod and CPU.

macro_rules! counters {
    ($($(#[$doc:meta])* $variant:ident = $index:literal, $name:literal;)*) => {
        /// One counter. The number is the index in [`PodCounters`]; the name is the metric label and,
        /// for the drops, the reason in an event.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(u32)]
        pub enum Counter { $($(#[$doc])* $variant = $index,)* }

        impl Counter {
            /// Every counter, in order of index.
            pub const ALL: &'static [Counter] = &[$(Counter::$variant,)*];

            /// Stable snake_case word.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Counter::$variant => $name,)* }
            }
        }
    };
}

counters! {
    /// `pod_steer`: handed to the outbound listener.
    SteerOutbound = 0, "steer_outbound";
    /// `pod_steer`: handed to the inbound listener.
    SteerInbound = 1, "steer_inbound";
    /// `pod_steer`: the agent's connection to the app.
    SteerAppLeg = 2, "steer_app_leg";
    /// `pod_steer`: kubelet's probe, straight to the app.
    SteerProbe = 3, "steer_probe";
    /// `pod_steer`: the pod talks to itself.
    SteerSelf = 4, "steer_self";
    /// `pod_steer`: neither end is a known address of the pod; dropped.
    SteerForeign = 5, "steer_foreign";
    /// `pod_steer`: no listener to hand over to; dropped.
    SteerNoListener = 6, "steer_no_listener";
    /// `veth_guard`: packet of a tagged socket, passed.
    GuardTagged = 7, "guard_tagged";
    /// `veth_guard`: untagged segment without payload that opens nothing, passed.
    GuardBare = 8, "guard_bare";
    /// `veth_guard`: reply to a probe, passed.
    GuardProbe = 9, "guard_probe";
    /// `veth_guard`: connection older than the enrolment, passed.
    GuardPreEnrolment = 10, "guard_pre_enrolment";
    /// `veth_guard`: UDP or SCTP, passed without protection.
    Unprotected = 11, "unprotected";
    /// `veth_guard`: ARP, neighbour discovery, DHCP and the ICMP that is needed, passed.
    GuardControl = 12, "guard_control";
    /// Drop: TCP of a socket that is not the agent's.
    DropUntagged = 13, "untagged_tcp";
    /// Drop: TCP while the pod is being set up.
    DropUnclassified = 14, "pod_not_ready";
    /// Drop: source MAC is not the pod's.
    DropMac = 15, "spoofed_mac";
    /// Drop: source IP is not the pod's.
    DropSource = 16, "spoofed_source";
    /// Drop: ARP sender is not the pod.
    DropArp = 17, "spoofed_arp";
    /// Drop: neighbour discovery for an address that is not the pod's.
    DropNd = 18, "spoofed_nd";
    /// Drop: EtherType or VLAN tag that a pod has no use for.
    DropEthertype = 19, "ethertype";
    /// Drop: headers that cannot be followed to the transport (fragmented TCP, odd extension headers).
    DropUnparsable = 20, "unparsable";
    /// Drop: an IP protocol other than TCP, UDP, SCTP, ICMP.
    DropProtocol = 21, "protocol";
    /// Drop: UDP or SCTP of a pod that may not use them.
    DropNonTcp = 22, "non_tcp_denied";
    /// Drop: ICMP of an unneeded type or beyond 1 KiB.
    DropIcmp = 23, "icmp";
    /// Drop: more control or bare segments than the limit.
    DropRate = 24, "rate_limited";
    /// Drop by `veth_watch`: wire segment with the tuple of an open app leg.
    DropAppLeg = 25, "app_leg_tuple";
    /// Drop by `veth_watch`: source equals destination.
    DropSelfForged = 26, "forged_self";
    /// Probe connections recognised by `veth_watch`.
    WatchProbe = 27, "watch_probe";
    /// Events that did not fit into the ring buffer or exceeded the rate.
    EventsLost = 28, "events_lost";
}

impl Counter {
    /// Whether packet or connection was dropped.
    #[must_use]
    #[inline(always)]
    pub const fn is_drop(self) -> bool {
        matches!(self as u32, 5 | 6 | 13..=26)
    }

    /// The counter with this index.
    #[must_use]
    pub fn from_index(index: u32) -> Option<Self> {
        Self::ALL.get(index as usize).copied()
    }
}

/// Number of words in [`PodCounters::values`].
pub const COUNTERS: usize = 29;

/// The counters of one pod on one CPU, and the state of its rate limits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct PodCounters {
    /// Indexed by [`Counter`].
    pub values: [u64; COUNTERS],
    /// Second (boot time) to which the three counts below belong.
    pub second: u64,
    /// Bare segments in that second.
    pub bare: u32,
    /// Control packets in that second.
    pub control: u32,
    /// Events in that second.
    pub events: u32,
    /// Always 0.
    pub reserved: u32,
}

impl Default for PodCounters {
    fn default() -> Self {
        Self { values: [0; COUNTERS], second: 0, bare: 0, control: 0, events: 0, reserved: 0 }
    }
}

impl PodCounters {
    /// Value of one counter.
    #[must_use]
    pub const fn get(&self, counter: Counter) -> u64 {
        self.values[counter as usize]
    }
}

const _: () = assert!(Counter::ALL.len() == COUNTERS);
const _: () = {
    let mut index = 0;
    while index < COUNTERS {
        assert!(Counter::ALL[index] as usize == index);
        index += 1;
    }
};
const _: () = assert!(size_of::<PodCounters>() == COUNTERS * 8 + 24 && align_of::<PodCounters>() == 8);
