//! Which series a connection belongs to, without comparing 27 texts each time.

use std::{
    collections::HashMap,
    hash::{Hash, Hasher},
    sync::Arc,
};

use culvert_workload::Workload;
use foldhash::fast::RandomState;

use super::tcp::{Series, flags, mutual};
use crate::outcome::{Direction, Party, Record};

/// So many at most: each keeps records of two workloads, also after newer ones have come.
const MOST: usize = 1024;

/// All that the labels of a connection between two known workloads are made of. Their records are compared by their place
/// in memory, which nothing else can take while they are held here.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Kin {
    direction: Direction,
    mutual: bool,
    flags: &'static str,
    service: Option<Arc<str>>,
    parties: [(Same, Option<Arc<str>>); 2],
}

/// The very same record.
#[derive(Debug, Clone)]
struct Same(Arc<Workload>);

impl PartialEq for Same {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Eq for Same {}

impl Hash for Same {
    fn hash<H: Hasher>(&self, state: &mut H) {
        Arc::as_ptr(&self.0).hash(state);
    }
}

impl Kin {
    /// Nothing for a connection with somebody that the roster does not know: such have nothing to go by.
    pub(super) fn of(record: &Record) -> Option<Self> {
        let party = |party: &Party| Some((Same(party.record.clone()?), party.identity.clone()));
        Some(Self {
            direction: record.direction,
            mutual: mutual(record),
            flags: flags(record),
            service: record.service.clone(),
            parties: [party(&record.src)?, party(&record.dst)?],
        })
    }
}

/// Series that were found for connections.
#[derive(Debug, Default)]
pub(super) struct Kindred(HashMap<Kin, Arc<Series>, RandomState>);

impl Kindred {
    /// The series of an earlier connection like this one.
    pub(super) fn find(&self, kin: &Kin) -> Option<Arc<Series>> {
        self.0.get(kin).cloned()
    }

    /// For the next connection like this one. Gives what is forgotten for it, to be dropped where nobody waits.
    pub(super) fn keep(&mut self, kin: Kin, series: &Arc<Series>) -> Self {
        let full = self.0.len() >= MOST;
        let forgotten = if full { std::mem::take(self) } else { Self::default() };
        self.0.insert(kin, series.clone());
        forgotten
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::expect_used, reason = "a test stops where it fails")]

    use super::*;
    use crate::{metrics::Metrics, outcome::Kind, samples};

    fn record(src: &Arc<Workload>, dst: &Arc<Workload>) -> Record {
        let at = "10.0.0.1:80".parse().expect("an address");
        let mut record = Record::new(Direction::Outbound, at, at, std::time::UNIX_EPOCH);
        record.src.known(src);
        record.dst.known(dst);
        record
    }

    #[test]
    fn connections_alike_share_a_series_and_others_do_not() {
        let pod = |name| Arc::new(samples::pod(name, "10.0.0.2"));
        let (web, data) = (pod("web"), pod("data"));
        let tcp = &Metrics::new(64).tcp;
        let flow = Arc::new(crate::outcome::Flow::new(Direction::Outbound));
        let series = |record: &Record| Arc::as_ptr(&tcp.opened(record, &flow).expect("a series"));
        let base = record(&web, &data);
        let first = series(&base);
        assert_eq!(series(&record(&web, &data)), first);
        let mut newer = (*web).clone();
        newer.labels.insert("app".to_owned(), "other".to_owned());
        let mut others = vec![record(&data, &web), record(&Arc::new(newer), &data)];
        let changes: [fn(&mut Record); 6] = [
            |record| record.direction = Direction::Inbound,
            |record| record.transport = crate::outcome::Transport::Hbone,
            |record| record.outcome = Kind::Denied,
            |record| record.service = Some("shop/web".into()),
            |record| record.src.identity = Some("spiffe://td/ns/a/sa/b".into()),
            |record| record.dst.identity = Some("spiffe://td/ns/a/sa/b".into()),
        ];
        for change in changes {
            let mut record = base.clone();
            change(&mut record);
            others.push(record);
        }
        let mut seen: Vec<_> = others.iter().map(series).chain([first]).collect();
        seen.sort_unstable();
        seen.dedup();
        assert_eq!(seen.len(), 9, "each has labels of its own");
        // A record with the same words in another place finds the same series by its labels.
        assert_eq!(series(&record(&pod("web"), &data)), first);
    }
}
