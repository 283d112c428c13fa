//! Made-up figures, to draw a report from where nothing was measured.

use std::collections::BTreeMap;

use crate::load::Outcome;
use crate::meter::Usage;
use crate::output::Raw;
use crate::pulse::Distance;
use crate::rig::Record;

/// Two workloads, three contenders, five rounds.
pub(super) fn raw() -> Raw {
    let contenders = [("no-mesh", 60_000), ("culvert", 30_000), ("envoy", 20_000)];
    let records = (1..=5).flat_map(|round| contenders.map(|(name, operations)| (round, name, operations)));
    let records = records.flat_map(|(round, name, operations)| {
        ["c16", "connects"].map(|workload| {
            let processes = BTreeMap::from([("proxies".to_owned(), 1.0)]);
            let usage = Usage { machine: 3.0, processes, ..Usage::default() };
            Record {
                round,
                workload: workload.to_owned(),
                contender: name.to_owned(),
                outcome: Outcome { seconds: 2.0, operations, usage, ..Outcome::default() },
                beside: None,
                cores: Distance::Far,
                moved: false,
            }
        })
    });
    Raw { records: records.collect(), ..Raw::default() }
}
