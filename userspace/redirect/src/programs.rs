//! The embedded BPF object: loading it for the node and for a pod.

use std::error::Error;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use aya::programs::{ProgramError, SchedClassifier, SkLookup};
use aya::{Ebpf, EbpfLoader};
use culvert_abi::{FlowKey, MAX_PODS, NodeConfig, PodConfig, PodCounters, SteerConfig, map as name, program, slot};

use crate::error::OpenError;
use crate::pins::{Pins, PodPins};
use crate::sys::{self, Map};

static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/programs.o"));

/// Level of aya-log: `Info`, or below the lowest.
const LOG_INFO: u8 = 3;
const LOG_OFF: u8 = 0;

/// A program that the kernel has accepted.
#[derive(Debug)]
pub(crate) struct Loaded {
    pub(crate) fd: OwnedFd,
    /// Hash of its instructions: the same program has the same tag.
    pub(crate) tag: [u8; 8],
}

/// The maps that all programs of the node share.
#[derive(Debug)]
pub(crate) struct SharedMaps {
    pub(crate) agent_tag: Map,
    pub(crate) app_legs: Map,
    pub(crate) probe_flows: Map,
    pub(crate) wire_flows: Map,
    pub(crate) pre_enrolment: Map,
    pub(crate) pod_policy: Map,
    pub(crate) node_config: Map,
    pub(crate) pod_counters: Map,
}

/// The layout that a pinned map must have to be reused.
struct Layout {
    name: &'static str,
    kind: u32,
    key: usize,
    value: usize,
    entries: u32,
    flags: u32,
}

const HASH: u32 = 1;
const ARRAY: u32 = 2;
const PERCPU_ARRAY: u32 = 6;
const LRU_HASH: u32 = 9;
const SOCKMAP: u32 = 15;
const SK_STORAGE: u32 = 24;
const RINGBUF: u32 = 27;

const fn layout(name: &'static str, kind: u32, key: usize, value: usize, entries: u32, flags: u32) -> Layout {
    Layout { name, kind, key, value, entries, flags }
}

const FLOW: usize = size_of::<FlowKey>();

const SHARED: [Layout; 10] = [
    layout(name::AGENT_TAG, SK_STORAGE, 4, 4, 0, 0x201),
    layout(name::APP_LEGS, HASH, FLOW, 4, 262_144, 1),
    layout(name::PROBE_FLOWS, LRU_HASH, FLOW, 4, 16_384, 0),
    layout(name::WIRE_FLOWS, LRU_HASH, FLOW, 4, 65_536, 0),
    layout(name::PRE_ENROLMENT, HASH, FLOW, 8, 16_384, 0),
    layout(name::POD_POLICY, HASH, 4, size_of::<PodConfig>(), MAX_PODS, 0),
    layout(name::NODE_CONFIG, ARRAY, 4, size_of::<NodeConfig>(), 1, 0),
    layout(name::POD_COUNTERS, PERCPU_ARRAY, 4, size_of::<PodCounters>(), MAX_PODS, 0),
    layout(name::EVENTS, RINGBUF, 0, 0, 262_144, 0),
    layout(name::LOGS, RINGBUF, 0, 0, 131_072, 0),
];

const LISTENERS: Layout = layout(name::LISTENERS, SOCKMAP, 4, 8, slot::COUNT, 0);

/// Refuses a pinned map that has another layout than this binary's programs expect.
fn check_pinned(path: &Path, expected: &Layout) -> Result<(), OpenError> {
    let system = |source| OpenError::System { action: format!("read the pin {}", path.display()), source };
    let Some(fd) = sys::pinned(path).map_err(system)? else { return Ok(()) };
    let found = Map::new(fd).info().map_err(system)?;
    let same = found.kind == expected.kind
        && found.key_size as usize == expected.key
        && found.value_size as usize == expected.value
        && found.max_entries == expected.entries
        && found.flags == expected.flags;
    if same {
        return Ok(());
    }
    let found = format!(
        "has type {}, key {}, value {}, entries {}, flags {:#x} instead of {}, {}, {}, {}, {:#x}",
        found.kind,
        found.key_size,
        found.value_size,
        found.max_entries,
        found.flags,
        expected.kind,
        expected.key,
        expected.value,
        expected.entries,
        expected.flags
    );
    Err(OpenError::PinnedMap { path: path.to_path_buf(), found })
}

/// What the programs of the node are made of.
pub(crate) struct NodePrograms {
    pub(crate) guard: Loaded,
    pub(crate) watch: Loaded,
    pub(crate) maps: SharedMaps,
    /// Holds the log ring if logging is on.
    pub(crate) log_source: Option<Ebpf>,
}

/// Loads guard and watch and makes or reopens the shared maps.
pub(crate) fn load_node(pins: &Pins, log: bool) -> Result<NodePrograms, OpenError> {
    if OBJECT.is_empty() {
        return Err(OpenError::NoPrograms);
    }
    for layout in &SHARED {
        check_pinned(&pins.map(layout.name), layout)?;
    }
    let mut ebpf = load_object(pins, None, SteerConfig::default(), log)
        .map_err(|detail| OpenError::Load { program: "the BPF object", detail })?;
    let refused = |program| move |detail| OpenError::Load { program, detail };
    let guard = classifier(&mut ebpf, program::VETH_GUARD).map_err(refused(program::VETH_GUARD))?;
    let watch = classifier(&mut ebpf, program::VETH_WATCH).map_err(refused(program::VETH_WATCH))?;
    let maps = open_maps(pins)?;
    Ok(NodePrograms { guard, watch, maps, log_source: log.then_some(ebpf) })
}

/// Loads guard and watch once more: other programs to the kernel, with the same maps.
pub(crate) fn load_copies(pins: &Pins, log: bool) -> Result<(Loaded, Loaded), OpenError> {
    let mut ebpf = load_object(pins, None, SteerConfig::default(), log)
        .map_err(|detail| OpenError::Load { program: "the BPF object", detail })?;
    let refused = |program| move |detail| OpenError::Load { program, detail };
    let guard = classifier(&mut ebpf, program::VETH_GUARD).map_err(refused(program::VETH_GUARD))?;
    let watch = classifier(&mut ebpf, program::VETH_WATCH).map_err(refused(program::VETH_WATCH))?;
    Ok((guard, watch))
}

fn open_maps(pins: &Pins) -> Result<SharedMaps, OpenError> {
    let open = |name: &str| {
        let path = pins.map(name);
        let action = || format!("open the pin {}", path.display());
        sys::pinned(&path)
            .and_then(|fd| fd.ok_or_else(|| io::Error::from(io::ErrorKind::NotFound)))
            .map(Map::new)
            .map_err(|source| OpenError::System { action: action(), source })
    };
    Ok(SharedMaps {
        agent_tag: open(name::AGENT_TAG)?,
        app_legs: open(name::APP_LEGS)?,
        probe_flows: open(name::PROBE_FLOWS)?,
        wire_flows: open(name::WIRE_FLOWS)?,
        pre_enrolment: open(name::PRE_ENROLMENT)?,
        pod_policy: open(name::POD_POLICY)?,
        node_config: open(name::NODE_CONFIG)?,
        pod_counters: open(name::POD_COUNTERS)?,
    })
}

/// What a pod gets for itself.
pub(crate) struct PodPrograms {
    pub(crate) steer: Loaded,
    pub(crate) probe: Loaded,
    pub(crate) listeners: Map,
}

/// Loads steering and probe mark with a pod's read-only data.
pub(crate) fn load_pod(pins: &Pins, pod: &PodPins, config: SteerConfig, log: bool) -> Result<PodPrograms, OpenError> {
    check_pinned(&pod.listeners, &LISTENERS)?;
    let mut ebpf = load_object(pins, Some(pod), config, log)
        .map_err(|detail| OpenError::Load { program: "the BPF object", detail })?;
    let refused = |program| move |detail| OpenError::Load { program, detail };
    let steer = steering(&mut ebpf).map_err(refused(program::POD_STEER))?;
    let probe = classifier(&mut ebpf, program::PROBE_MARK).map_err(refused(program::PROBE_MARK))?;
    let listeners = sys::pinned(&pod.listeners)
        .and_then(|fd| fd.ok_or_else(|| io::Error::from(io::ErrorKind::NotFound)))
        .map(Map::new)
        .map_err(|source| OpenError::System { action: "open the pin of the listeners".to_owned(), source })?;
    Ok(PodPrograms { steer, probe, listeners })
}

fn load_object(pins: &Pins, pod: Option<&PodPins>, config: SteerConfig, log: bool) -> Result<Ebpf, String> {
    let level = if log { LOG_INFO } else { LOG_OFF };
    let mut loader = EbpfLoader::new();
    loader.override_global(program::STEER_CONFIG, &config, true).override_global(aya_log::LEVEL, &level, true);
    for layout in &SHARED {
        loader.map_pin_path(layout.name, pins.map(layout.name));
    }
    if let Some(pod) = pod {
        loader.map_pin_path(name::LISTENERS, pod.listeners.clone());
    }
    loader.load(OBJECT).map_err(|error| chain(&error))
}

fn classifier(ebpf: &mut Ebpf, name: &'static str) -> Result<Loaded, String> {
    let program: &mut SchedClassifier = ebpf
        .program_mut(name)
        .ok_or("the object has no such program")?
        .try_into()
        .map_err(|error: ProgramError| chain(&error))?;
    program.load().map_err(|error| chain(&error))?;
    loaded(program.fd().map_err(|error| chain(&error))?.as_fd())
}

fn steering(ebpf: &mut Ebpf) -> Result<Loaded, String> {
    let program: &mut SkLookup = ebpf
        .program_mut(program::POD_STEER)
        .ok_or("the object has no such program")?
        .try_into()
        .map_err(|error: ProgramError| chain(&error))?;
    program.load().map_err(|error| chain(&error))?;
    loaded(program.fd().map_err(|error| chain(&error))?.as_fd())
}

fn loaded(fd: std::os::fd::BorrowedFd<'_>) -> Result<Loaded, String> {
    let fd = fd.try_clone_to_owned().map_err(|error| error.to_string())?;
    let tag = sys::program_info(fd.as_fd()).map_err(|error| error.to_string())?.tag;
    Ok(Loaded { fd, tag })
}

/// An error with its sources in one line; of a verifier log the last lines, which say why.
pub(crate) fn chain(error: &dyn Error) -> String {
    const KEPT: usize = 1_500;
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(inner) = source {
        let inner_text = inner.to_string();
        if !text.contains(&inner_text) {
            text = format!("{text}: {inner_text}");
        }
        source = inner.source();
    }
    if text.len() > KEPT {
        let start = (text.len() - KEPT..text.len()).find(|at| text.is_char_boundary(*at)).unwrap_or(0);
        text = format!("... {}", &text[start..]);
    }
    text
}
