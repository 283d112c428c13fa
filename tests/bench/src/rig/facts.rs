//! What the figures were measured on.

use std::collections::BTreeMap;
use std::fs::read_to_string;

use serde::{Deserialize, Serialize};

use super::Arguments;
use super::field::Field;

/// Machine, settings, versions.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Facts {
    pub(crate) machine: BTreeMap<String, String>,
    pub(crate) versions: BTreeMap<String, String>,
    pub(crate) settings: BTreeMap<String, String>,
}

pub(crate) fn gather(wanted: &Arguments, field: &Field) -> Facts {
    let cpu = read_to_string("/proc/cpuinfo").unwrap_or_default();
    let line = |key: &str| {
        let line = cpu.lines().find(|line| line.starts_with(key)).unwrap_or_default();
        line.split_once(": ").map(|(_, value)| value.to_owned()).unwrap_or_default()
    };
    let flags = line("flags");
    let flags: Vec<&str> = flags
        .split(' ')
        .filter(|flag| ["aes", "vaes", "avx2", "avx512f", "sha_ni", "vpclmulqdq"].contains(flag))
        .collect();
    let sysctl = |key: &str| {
        let file = format!("/proc/sys/net/ipv4/{key}");
        field
            .first()
            .and_then(|one| one.pair.client.netns().run("cat", &[&file]).ok())
            .unwrap_or_default()
            .trim()
            .to_owned()
    };
    let cores = std::thread::available_parallelism().map_or(0, std::num::NonZero::get);
    let kernel = read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default().trim().to_owned();
    Facts {
        machine: named([
            ("processor", line("model name")),
            ("processor flags", flags.join(" ")),
            ("cores", cores.to_string()),
            ("kernel", kernel),
            ("congestion control", sysctl("tcp_congestion_control")),
            ("tcp_rmem", sysctl("tcp_rmem")),
            ("tcp_wmem", sysctl("tcp_wmem")),
            ("MTU", "1500, veth, offloads on".to_owned()),
        ]),
        versions: field.versions(),
        settings: named([
            ("rounds", wanted.rounds.to_string()),
            ("seconds of each run", wanted.seconds.to_string()),
            ("warm-up seconds", wanted.warmup.to_string()),
            ("threads of each proxy", wanted.workers.to_string()),
            ("more arguments of culvert's agents", wanted.agent_args.clone()),
        ])
        .into_iter()
        .chain(field.choices())
        .collect(),
    }
}

fn named<const N: usize>(pairs: [(&str, String); N]) -> BTreeMap<String, String> {
    pairs.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}
