//! Of whom the agent knows everything. In a large mesh it is told of its own pods, and of addresses that it has asked
//! for; then "nobody is known there" says nothing until it has been asked.

use std::{
    collections::{HashMap, HashSet},
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use tokio::sync::Notify;

/// Most addresses that are asked for at a time; beyond, the one that was needed longest ago is given up.
const MOST: usize = 4096;
/// What nobody has needed for so long is given up.
const IDLE: Duration = Duration::from_secs(600);

/// Of which addresses a state says everything.
#[derive(Debug, Clone, Default)]
pub struct Coverage {
    /// Only of those of the node's own pods, and of these; otherwise of all.
    pub partial: bool,
    /// Addresses that were asked for, and answered.
    pub answered: Arc<HashSet<IpAddr>>,
}

/// The addresses that this node needs, and when it needed them last.
#[derive(Debug, Default)]
pub struct Asked {
    needed: Mutex<HashMap<IpAddr, Instant>>,
    more: Notify,
}

impl Asked {
    /// The address is needed now.
    pub fn need(&self, address: IpAddr) {
        let now = Instant::now();
        let mut needed = self.lock();
        if needed.insert(address.to_canonical(), now).is_some() {
            return;
        }
        if needed.len() > MOST
            && let Some(oldest) = needed.iter().min_by_key(|(_, at)| **at).map(|(address, _)| *address)
        {
            needed.remove(&oldest);
        }
        drop(needed);
        self.more.notify_one();
    }

    /// Waits until an address is needed that was not.
    pub async fn more(&self) {
        self.more.notified().await;
    }

    /// All of them; those that nobody has needed for long are given up first.
    pub fn all(&self, now: Instant) -> HashSet<IpAddr> {
        let mut needed = self.lock();
        needed.retain(|_, at| now.saturating_duration_since(*at) < IDLE);
        needed.keys().copied().collect()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<IpAddr, Instant>> {
        self.needed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_needed_longest_ago_is_given_up_and_so_is_what_is_idle() {
        let asked = Asked::default();
        for index in 0..=u32::try_from(MOST).unwrap_or(u32::MAX) {
            asked.need(IpAddr::V4(index.into()));
        }
        let now = Instant::now();
        let all = asked.all(now);
        assert_eq!(all.len(), MOST);
        assert!(!all.contains(&IpAddr::V4(0.into())));
        asked.need(IpAddr::V4(7.into()));
        assert!(asked.all(now + IDLE + Duration::from_secs(60)).is_empty());
    }
}
