//! Places for connections: so many for the whole agent, and no more than a share of them for one pod.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// One pod may have one in so many of all places.
const SHARE: usize = 4;
/// With fewer places than this there is nothing to share out.
const FEWEST: usize = 64;

/// The places of the agent.
#[derive(Debug)]
pub struct Places {
    all: Arc<Semaphore>,
    count: usize,
    per_pod: usize,
}

/// The places that one pod may have.
#[derive(Debug, Clone)]
pub struct PodPlaces {
    all: Arc<Semaphore>,
    own: Arc<Semaphore>,
}

/// A place, free again when it is dropped.
#[derive(Debug)]
pub struct Place {
    _own: OwnedSemaphorePermit,
    _of_all: OwnedSemaphorePermit,
}

impl Places {
    /// So many connections at once.
    pub fn new(count: usize) -> Self {
        let per_pod = if count < FEWEST { count } else { count / SHARE };
        Self { all: Arc::new(Semaphore::new(count)), count, per_pod }
    }

    /// Nobody has one: no connection is open or on its way.
    pub fn are_free(&self) -> bool {
        self.all.available_permits() == self.count
    }

    /// A pod's part.
    pub fn of_pod(&self) -> PodPlaces {
        PodPlaces { all: self.all.clone(), own: Arc::new(Semaphore::new(self.per_pod)) }
    }
}

impl PodPlaces {
    /// Waits for a place: first for one of the pod's own, so that a pod without any does not wait among the others.
    pub async fn wait(&self) -> Option<Place> {
        let own = self.own.clone().acquire_owned().await.ok()?;
        let of_all = self.all.clone().acquire_owned().await.ok()?;
        Some(Place { _own: own, _of_all: of_all })
    }

    /// A place, if there is one now.
    pub fn take(&self) -> Option<Place> {
        let own = self.own.clone().try_acquire_owned().ok()?;
        let of_all = self.all.clone().try_acquire_owned().ok()?;
        Some(Place { _own: own, _of_all: of_all })
    }
}

#[cfg(test)]
mod tests {
    use super::Places;

    #[test]
    fn one_pod_leaves_places_to_the_others() {
        let places = Places::new(100);
        let (greedy, other) = (places.of_pod(), places.of_pod());
        let taken: Vec<_> = std::iter::from_fn(|| greedy.take()).collect();
        assert_eq!(taken.len(), 25);
        assert!(other.take().is_some(), "the others have places all the same");
        assert!(!places.are_free(), "25 are taken");
        drop(taken);
        assert!(places.are_free(), "all came back");
        assert!(greedy.take().is_some(), "a place comes back with its connection");
    }

    #[test]
    fn all_pods_together_have_no_more_than_there_are() {
        let places = Places::new(100);
        let taken: Vec<_> = (0..5)
            .flat_map(|_| {
                let pod = places.of_pod();
                std::iter::from_fn(move || pod.take())
            })
            .collect();
        assert_eq!(taken.len(), 100);
        let few = Places::new(3).of_pod();
        assert_eq!(std::iter::from_fn(|| few.take()).collect::<Vec<_>>().len(), 3, "too few to share out");
    }
}
