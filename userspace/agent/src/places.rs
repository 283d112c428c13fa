//! Places for connections: so many for the whole agent, no more than a share of them for one pod, and no more than a part of
//! either for what comes from the wire, where anybody can begin a handshake and leave it there. Half of that part is for
//! handshakes: the streams of those who have proven themselves find places whatever others begin.

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
    unproven: Arc<Semaphore>,
    count: usize,
    per_pod: usize,
}

/// The places that one pod may have.
#[derive(Debug, Clone)]
pub struct PodPlaces {
    /// From the narrowest on: whoever waits holds nothing that others wait for.
    outbound: [Arc<Semaphore>; 2],
    inbound: [Arc<Semaphore>; 4],
    unproven: [Arc<Semaphore>; 2],
}

/// Leave to shake hands, until dropped.
#[derive(Debug)]
pub struct Unproven {
    _permits: [OwnedSemaphorePermit; 2],
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
        let places = |count| Arc::new(Semaphore::new(count));
        let inbound = part(count, count);
        Self { all: places(count), inbound: places(inbound.0), unproven: places(inbound.1), count, per_pod }
    }

    /// Nobody has one: no connection is open or on its way.
    pub fn are_free(&self) -> bool {
        self.all.available_permits() == self.count
    }

    /// A pod's part.
    pub fn of_pod(&self) -> PodPlaces {
        let (inbound, unproven) = part(self.per_pod, self.count);
        let own = Arc::new(Semaphore::new(self.per_pod));
        let own_inbound = Arc::new(Semaphore::new(inbound));
        PodPlaces {
            unproven: [Arc::new(Semaphore::new(unproven)), self.unproven.clone()],
            outbound: [own.clone(), self.all.clone()],
            inbound: [own_inbound, own, self.inbound.clone(), self.all.clone()],
        }
    }
}

/// How many of so many places are for what comes from the wire, and how many of those for handshakes, where there are so
/// many in all.
fn part(count: usize, all: usize) -> (usize, usize) {
    if all < FEWEST {
        return (count, count);
    }
    let inbound = count * INBOUND_QUARTERS / 4;
    (inbound, inbound / 2)
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

    /// Leave for one of the pod's inbound connections to shake hands, if it can be given now.
    pub fn take_unproven(&self) -> Option<Unproven> {
        let [own, all] = &self.unproven;
        let own = own.clone().try_acquire_owned().ok()?;
        Some(Unproven { _permits: [own, all.clone().try_acquire_owned().ok()?] })
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
        assert_eq!(flood.len(), 4 * 187, "three quarters of what each may have");
        assert!(places.of_pod().take(Inbound).is_some(), "and there is room for others yet");
        for pod in &pods {
            let own: Vec<_> = std::iter::from_fn(|| pod.take(Outbound)).collect();
            assert_eq!(own.len(), 63, "a quarter is for its own");
        }
        let more: Vec<_> = (0..4).map(|_| places.of_pod()).collect();
        let rest: Vec<_> = more.iter().flat_map(|pod| std::iter::from_fn(|| pod.take(Inbound))).collect();
        assert_eq!(flood.len() + rest.len(), 750, "three quarters of all");
        assert!(more[0].take(Outbound).is_some());
        drop((flood, rest));
        assert!(places.are_free(), "all came back");
    }

    #[test]
    fn handshakes_leave_places_to_the_streams_of_those_who_have_proven_themselves() {
        let places = Places::new(1000);
        let pods = [(); 4].map(|()| places.of_pod());
        let begin = |pod: &super::PodPlaces| Some((pod.take(Inbound)?, pod.take_unproven()?));
        let flood: Vec<_> = pods.iter().flat_map(|pod| std::iter::from_fn(move || begin(pod))).collect();
        assert_eq!(flood.len(), 4 * 93, "half of what each may have");
        for pod in &pods {
            let streams: Vec<_> = (0..90).map_while(|_| pod.take(Inbound)).collect();
            assert_eq!(streams.len(), 90);
        }
        let others: Vec<_> = (0..4).map(|_| places.of_pod()).collect();
        let more: Vec<_> = others.iter().flat_map(|pod| std::iter::from_fn(|| pod.take_unproven())).collect();
        assert_eq!(more.len(), 375 - flood.len(), "half of all");
    }

    #[test]
    fn few_places_are_shared_out_as_well() {
        let places = Places::new(64).of_pod();
        assert_eq!(std::iter::from_fn(|| places.take(Inbound)).collect::<Vec<_>>().len(), 12);
    }
}
