//! The maps, and the read-only data of a pod's programs.

use core::ffi::c_void;

use aya_ebpf::{
    bindings::bpf_map_type::{BPF_MAP_TYPE_SK_STORAGE, BPF_MAP_TYPE_SOCKMAP},
    btf_maps::{Array, HashMap, LruHashMap, PerCpuArray, RingBuf},
    macros::btf_map,
};
use culvert_abi::{
    Address, Event, FlowKey, MAX_POD_ADDRESSES, MAX_PODS, NodeConfig, PodConfig, PodCounters, SteerConfig, slot,
};

#[btf_map(name = "app_legs")]
pub static APP_LEGS: HashMap<FlowKey, u32, 262144, 1> = HashMap::new();
#[btf_map(name = "probe_flows")]
pub static PROBE_FLOWS: LruHashMap<FlowKey, u32, 16384> = LruHashMap::new();
#[btf_map(name = "wire_flows")]
pub static WIRE_FLOWS: LruHashMap<FlowKey, u32, 65536> = LruHashMap::new();
#[btf_map(name = "pre_enrolment")]
pub static PRE_ENROLMENT: HashMap<FlowKey, u64, 16384> = HashMap::new();
#[btf_map(name = "pod_policy")]
pub static POD_POLICY: HashMap<u32, PodConfig, { MAX_PODS as usize }> = HashMap::new();
#[btf_map(name = "node_config")]
pub static NODE_CONFIG: Array<NodeConfig, 1> = Array::new();
#[btf_map(name = "pod_counters")]
pub static POD_COUNTERS: PerCpuArray<PodCounters, { MAX_PODS as usize }> = PerCpuArray::new();
#[btf_map(name = "events")]
pub static EVENTS: RingBuf<Event, 262144> = RingBuf::new();

/// A map of a kind whose type in aya-ebpf fixes what we need otherwise.
#[repr(C)]
pub struct RawMap<const TYPE: usize, K, V, const MAX_ENTRIES: usize, const FLAGS: usize> {
    r#type: *const [i32; TYPE],
    key: *const K,
    value: *const V,
    max_entries: *const [i32; MAX_ENTRIES],
    map_flags: *const [i32; FLAGS],
}

// SAFETY: the fields only describe the map to the loader and are never dereferenced; what the kernel
// puts behind the symbol is synchronised by the kernel.
unsafe impl<const T: usize, K, V, const M: usize, const F: usize> Sync for RawMap<T, K, V, M, F> {}

impl<const T: usize, K, V, const M: usize, const F: usize> RawMap<T, K, V, M, F> {
    const fn new() -> Self {
        Self {
            r#type: core::ptr::null(),
            key: core::ptr::null(),
            value: core::ptr::null(),
            max_entries: core::ptr::null(),
            map_flags: core::ptr::null(),
        }
    }

    /// What helpers take as map.
    #[inline(always)]
    pub fn as_ptr(&self) -> *mut c_void {
        core::ptr::from_ref(self).cast_mut().cast()
    }
}

/// `BPF_F_NO_PREALLOC | BPF_F_CLONE`: accepted sockets inherit the listener's tag (Linux 5.4).
const NO_PREALLOC_CLONE: usize = 0x201;

#[btf_map(name = "agent_tag")]
pub static AGENT_TAG: RawMap<{ BPF_MAP_TYPE_SK_STORAGE as usize }, i32, u32, 0, NO_PREALLOC_CLONE> = RawMap::new();

/// Value size 8 lets the agent read back socket cookies.
#[btf_map(name = "listeners")]
pub static LISTENERS: RawMap<{ BPF_MAP_TYPE_SOCKMAP as usize }, u32, u64, { slot::COUNT as usize }, 0> = RawMap::new();

/// Filled in before load; frozen afterwards.
#[unsafe(no_mangle)]
static STEER_CONFIG: SteerConfig =
    SteerConfig { pod: 0, slot: 0, address_count: 0, addresses: [[0; 4]; MAX_POD_ADDRESSES] };

/// Reads one word of the read-only data. Volatile: the compiler must not believe in the zeroes above.
macro_rules! steer_config {
    ($($field:tt)+) => {
        // SAFETY: a field of a static, aligned and initialised.
        unsafe { (&raw const STEER_CONFIG.$($field)+).read_volatile() }
    };
}

/// Ifindex of the pod's host veth.
#[inline(always)]
pub fn own_pod() -> u32 {
    steer_config!(pod)
}

/// Row of the pod's counters.
#[inline(always)]
pub fn own_slot() -> u32 {
    steer_config!(slot)
}

/// Whether the pod of `pod_steer` has this address. Unused entries are zero, which no address is.
#[inline(always)]
pub fn is_own(address: &Address) -> bool {
    if *address == [0; 4] {
        return false;
    }
    for i in 0..MAX_POD_ADDRESSES {
        if steer_config!(addresses[i][3]) == address[3]
            && steer_config!(addresses[i][2]) == address[2]
            && steer_config!(addresses[i][1]) == address[1]
            && steer_config!(addresses[i][0]) == address[0]
        {
            return true;
        }
    }
    false
}
