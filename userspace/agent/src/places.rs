//! Places for connections: so many for the whole agent, no more than a share of them for one pod, and no more than a part of
//! either for what comes from the wire, where anybody can begin a handshake and leave it there.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::outcome::Direction;

/// One pod may have one in so many of all places.
const SHARE: usize = 4;
/// What comes from the wire may have so many quarters of a pod's places, and of all.
const INBOUND_QUARTERS: usize = 3;
/// With fewer places than this there is nothing to share out.
const FEWEST: usize = 64;

/// The places of the agent.
#[derive(Debug)]
pub struct Places {
    all: Arc<Semaphore>,
    inbound: Arc<Semaphore>,
    count: usize,
    per_pod: usize,
}

/// The places that one pod may have.
#[derive(Debug, Clone)]
pub struct PodPlaces {
    /// From the narrowest on: whoever waits holds nothing that others wait for.
    outbound: [Arc<Semaphore>; 2],
    inbound: [Arc<Semaphore>; 4],
}

/// A place, free again when it is dropped.
#[derive(Debug)]
pub struct Place {
    _permits: [Option<OwnedSemaphorePermit>; 4],
}

impl Places {
    /// So many connections at once.
    pub fn new(count: usize) -> Self {
        let per_pod = if count < FEWEST { count } else { count / SHARE };
        let (all, inbound) = (Arc::new(Semaphore::new(count)), Arc::new(Semaphore::new(inbound_of(count))));
        Self { all, inbound, count, per_pod }
    }

    /// Nobody has one: no connection is open or on its way.
    pub fn are_free(&self) -> bool {
        self.all.available_permits() == self.count
    }

    /// A pod's part.
    pub fn of_pod(&self) -> PodPlaces {
        let own = Arc::new(Semaphore::new(self.per_pod));
        let own_inbound = Arc::new(Semaphore::new(inbound_of(self.per_pod)));
        PodPlaces {
            outbound: [own.clone(), self.all.clone()],
            inbound: [own_inbound, own, self.inbound.clone(), self.all.clone()],
        }
    }
}

fn inbound_of(count: usize) -> usize {
    if count < FEWEST { count } else { count / 4 * INBOUND_QUARTERS }
}

impl PodPlaces {
    /// Waits for a place: first for one of the pod's own, so that a pod without any does not wait among the others.
    pub async fn wait(&self, direction: Direction) -> Option<Place> {
        let mut permits = [const { None }; 4];
        for (permit, semaphore) in permits.iter_mut().zip(self.of(direction)) {
            *permit = Some(semaphore.clone().acquire_owned().await.ok()?);
        }
        Some(Place { _permits: permits })
    }

    /// A place, if there is one now.
    pub fn take(&self, direction: Direction) -> Option<Place> {
        let mut permits = [const { None }; 4];
        for (permit, semaphore) in permits.iter_mut().zip(self.of(direction)) {
            *permit = Some(semaphore.clone().try_acquire_owned().ok()?);
        }
        Some(Place { _permits: permits })
    }

    fn of(&self, direction: Direction) -> &[Arc<Semaphore>] {
        match direction {
            Direction::Outbound => &self.outbound,
            Direction::Inbound => &self.inbound,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Places;
    use crate::outcome::Direction::{Inbound, Outbound};

    #[test]
    fn one_pod_leaves_places_to_the_others() {
        let places = Places::new(100);
        let (greedy, other) = (places.of_pod(), places.of_pod());
        let taken: Vec<_> = std::iter::from_fn(|| greedy.take(Outbound)).collect();
        assert_eq!(taken.len(), 25);
        assert!(other.take(Outbound).is_some(), "the others have places all the same");
        assert!(!places.are_free(), "25 are taken");
        drop(taken);
        assert!(places.are_free(), "all came back");
        assert!(greedy.take(Outbound).is_some(), "a place comes back with its connection");
    }

    #[test]
    fn all_pods_together_have_no_more_than_there_are() {
        let places = Places::new(100);
        let taken: Vec<_> = (0..5)
            .flat_map(|_| {
                let pod = places.of_pod();
                std::iter::from_fn(move || pod.take(Outbound))
            })
            .collect();
        assert_eq!(taken.len(), 100);
        let few = Places::new(3).of_pod();
        assert_eq!(std::iter::from_fn(|| few.take(Outbound)).collect::<Vec<_>>().len(), 3, "too few to share out");
    }

    #[test]
    fn what_comes_from_the_wire_leaves_places_to_the_pods_own_connections() {
        let places = Places::new(1000);
        let pods = [(); 4].map(|()| places.of_pod());
        let flood: Vec<_> = pods.iter().flat_map(|pod| std::iter::from_fn(|| pod.take(Inbound))).collect();
        assert_eq!(flood.len(), 4 * 186, "three quarters of what each may have");
        assert!(places.of_pod().take(Inbound).is_some(), "and there is room for others yet");
        for pod in &pods {
            let own: Vec<_> = std::iter::from_fn(|| pod.take(Outbound)).collect();
            assert_eq!(own.len(), 64, "a quarter is for its own");
        }
        let more: Vec<_> = (0..4).map(|_| places.of_pod()).collect();
        let rest: Vec<_> = more.iter().flat_map(|pod| std::iter::from_fn(|| pod.take(Inbound))).collect();
        assert_eq!(flood.len() + rest.len(), 750, "three quarters of all");
        assert!(more[0].take(Outbound).is_some());
        drop((flood, rest));
        assert!(places.are_free(), "all came back");
    }
}
