//! Places for connections on ports that anybody can reach.
//!
//! Who comes when all places are taken takes that of the oldest connection, and who has too many takes that of its own
//! oldest: nobody can keep others from being answered by connecting and saying nothing.

use std::{collections::VecDeque, net::IpAddr};

use tokio::task::AbortHandle;

/// The open connections, the oldest first.
#[derive(Debug)]
pub struct Guests {
    at_once: usize,
    from_one: usize,
    open: VecDeque<(IpAddr, AbortHandle)>,
}

impl Guests {
    /// So many at once, and so many of them from one address.
    pub const fn new(at_once: usize, from_one: usize) -> Self {
        Self { at_once, from_one, open: VecDeque::new() }
    }

    /// Takes a connection in, by the task that serves it. The task that has to go for it is aborted.
    pub fn take_in(&mut self, address: IpAddr, task: AbortHandle) {
        let address = address.to_canonical();
        self.open.retain(|(_, task)| !task.is_finished());
        let of_one = self.open.iter().filter(|(other, _)| *other == address).count();
        let leaves = if of_one >= self.from_one {
            self.open.iter().position(|(other, _)| *other == address)
        } else {
            (self.open.len() >= self.at_once).then_some(0)
        };
        if let Some((_, task)) = leaves.and_then(|at| self.open.remove(at)) {
            task.abort();
        }
        self.open.push_back((address, task));
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use tokio::task::JoinHandle;

    use super::*;

    /// Who is aborted when these addresses come one after the other, and none leaves.
    async fn gone(at_once: usize, from_one: usize, addresses: &[&str]) -> Vec<usize> {
        let mut guests = Guests::new(at_once, from_one);
        let tasks: Vec<JoinHandle<()>> = addresses
            .iter()
            .map(|address| {
                let task = tokio::spawn(std::future::pending());
                guests.take_in(address.parse().unwrap(), task.abort_handle());
                task
            })
            .collect();
        tokio::task::yield_now().await;
        (0..tasks.len()).filter(|at| tasks[*at].is_finished()).collect()
    }

    #[tokio::test]
    async fn the_oldest_goes_and_of_one_with_too_many_its_own_oldest() {
        let (one, same, two, three) = ("10.0.0.1", "::ffff:10.0.0.1", "10.0.0.2", "fd00::3");
        assert_eq!(gone(3, 2, &[one, two, three]).await, [0; 0]);
        assert_eq!(gone(3, 2, &[one, two, three, two]).await, [0], "the oldest of all");
        assert_eq!(gone(9, 2, &[two, one, one, same]).await, [1], "its own oldest");
        assert_eq!(gone(3, 2, &[two, one, one, one, three]).await, [0, 1]);
    }

    #[tokio::test]
    async fn who_has_left_takes_no_place() {
        let mut guests = Guests::new(1, 1);
        let address = "10.0.0.1".parse().unwrap();
        let first = tokio::spawn(async {});
        guests.take_in(address, first.abort_handle());
        assert!(first.await.is_ok());
        for _ in 0..100 {
            let task = tokio::spawn(async {});
            guests.take_in(address, task.abort_handle());
            assert!(task.await.is_ok(), "nobody was there");
        }
        assert_eq!(guests.open.len(), 1);
    }
}
