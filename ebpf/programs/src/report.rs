//! Counters, rate limits and events: what leaves a trace of each decision.

use aya_ebpf::helpers::bpf_ktime_get_ns;
use culvert_abi::{Counter, Event, PodCounters};

use crate::maps::{EVENTS, POD_COUNTERS};

/// Per pod, CPU and second. More bare segments than any real load makes, far fewer than a flood.
const BARE_PER_SECOND: u32 = 65_536;
/// Per pod, CPU and second: ICMP, ARP, neighbour discovery and DHCP.
const CONTROL_PER_SECOND: u32 = 1_024;
/// Per pod, CPU and second: what a reader can use.
const EVENTS_PER_SECOND: u32 = 128;

const NANOS: u64 = 1_000_000_000;

/// The counters of one pod on this CPU.
#[derive(Clone, Copy)]
pub struct Tally(*mut PodCounters);

impl Tally {
    /// Row `slot`; `None` if there is no such row, which no program lets pass.
    #[inline(always)]
    pub fn of(slot: u32) -> Option<Self> {
        POD_COUNTERS.get_ptr_mut(slot).map(Self)
    }

    /// Adds one.
    #[inline(always)]
    pub fn count(self, counter: Counter) {
        // SAFETY: the pointer comes from the map and is not null; programs do not migrate while they
        // run, so nobody else writes this CPU's row except a program that interrupts this one, which
        // can at worst lose a count.
        unsafe { (*self.0).values[counter as usize] += 1 }
    }

    /// Takes one of the bare segments of this second; false if there is none left.
    #[inline(always)]
    pub fn take_bare(self) -> bool {
        self.roll();
        // SAFETY: as in `count`.
        unsafe {
            (*self.0).bare += 1;
            (*self.0).bare <= BARE_PER_SECOND
        }
    }

    /// Takes one of the control packets of this second; false if there is none left.
    #[inline(always)]
    pub fn take_control(self) -> bool {
        self.roll();
        // SAFETY: as in `count`.
        unsafe {
            (*self.0).control += 1;
            (*self.0).control <= CONTROL_PER_SECOND
        }
    }

    #[inline(always)]
    fn take_event(self) -> bool {
        self.roll();
        // SAFETY: as in `count`.
        unsafe {
            (*self.0).events += 1;
            (*self.0).events <= EVENTS_PER_SECOND
        }
    }

    #[inline(always)]
    fn roll(self) {
        // SAFETY: the helper has no preconditions.
        let second = unsafe { bpf_ktime_get_ns() } / NANOS;
        // SAFETY: as in `count`.
        unsafe {
            if (*self.0).second != second {
                (*self.0).second = second;
                (*self.0).bare = 0;
                (*self.0).control = 0;
                (*self.0).events = 0;
            }
        }
    }

    /// Reports a drop and counts it. A full ring or a spent rate loses the event, never the verdict.
    #[inline(always)]
    pub fn drop(self, counter: Counter, mut event: Event) {
        self.count(counter);
        if !self.take_event() {
            return self.count(Counter::EventsLost);
        }
        // SAFETY: the helper has no preconditions.
        event.at_ns = unsafe { bpf_ktime_get_ns() };
        event.counter = counter as u32;
        if EVENTS.output(&event, 0).is_err() {
            self.count(Counter::EventsLost);
        }
    }
}
