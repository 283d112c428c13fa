//! All tunnels of one key, and the queue for the next one.

use std::{collections::VecDeque, rc::Rc, time::SystemTime};

use tokio::sync::oneshot;

use super::{Inner, PoolCount};
use crate::{
    error::OpenError,
    key::{Generation, Route, TunnelKey},
    tunnel::{Seated, Tunnel},
};

/// The tunnels of one key. While a dial is in flight there is a queue.
#[derive(Default)]
pub(super) struct Group {
    tunnels: Vec<Rc<Tunnel>>,
    /// The generation of the last handshake.
    proven: Generation,
    queue: Option<VecDeque<oneshot::Sender<Turn>>>,
}

/// What somebody who waited for a dial gets.
pub(super) enum Turn {
    /// A place in the new tunnel.
    Seated(Seated),
    /// The new tunnel was full when it was their turn; look again.
    Again,
    /// The dial failed.
    Failed(OpenError),
}

/// What somebody who wants a place finds.
pub(super) enum Seat {
    Taken(Seated),
    /// Somebody dials; wait.
    Wait(oneshot::Receiver<Turn>),
    /// Nobody dials: do, then wait.
    Dial(oneshot::Receiver<Turn>),
}

impl Group {
    fn seat(&mut self, generation: Generation, most: usize) -> Seat {
        for tunnel in &self.tunnels {
            if tunnel.peer.generation.is_older_than(generation) {
                tunnel.retire();
            }
        }
        // The first with room: later tunnels empty out and are released.
        if let Some(seated) = self.tunnels.iter().find_map(|tunnel| tunnel.try_seat(most)) {
            return Seat::Taken(seated);
        }
        self.line_up()
    }

    /// A place in the queue for the next tunnel.
    fn line_up(&mut self) -> Seat {
        let (turn, wait) = oneshot::channel();
        match &mut self.queue {
            Some(queue) => {
                queue.push_back(turn);
                Seat::Wait(wait)
            }
            None => {
                self.queue = Some(VecDeque::from([turn]));
                Seat::Dial(wait)
            }
        }
    }

    /// Whether streams live here that no handshake of this generation stands for.
    pub(super) fn is_unproven(&self, generation: Generation) -> bool {
        let older = |t: &Rc<Tunnel>| t.peer.generation.is_older_than(generation) && t.streams() > 0;
        self.proven.is_older_than(generation) && self.tunnels.iter().any(older)
    }

    /// Whether streams live here on a proof that ends before `deadline`.
    pub(super) fn ends_before(&self, deadline: SystemTime) -> bool {
        self.tunnels.iter().any(|t| t.streams() > 0 && t.ended().is_none() && t.until() < deadline)
    }

    /// Adds a new tunnel. Those that prove less are retired: one of the two sides has a newer SVID now.
    fn add(&mut self, tunnel: &Rc<Tunnel>) {
        for older in self.tunnels.iter().filter(|t| t.peer.until < tunnel.peer.until) {
            older.retire();
        }
        self.proven = tunnel.peer.generation;
        self.tunnels.push(Rc::clone(tunnel));
    }

    pub(super) fn count(&self) -> PoolCount {
        PoolCount {
            tunnels: self.tunnels.len(),
            retired: self.tunnels.iter().filter(|t| t.is_retired()).count(),
            streams: self.tunnels.iter().map(|t| t.streams()).sum(),
            dials: usize::from(self.queue.is_some()),
        }
    }

    fn is_empty(&self) -> bool {
        self.tunnels.is_empty() && self.queue.is_none()
    }
}

impl Inner {
    pub(super) fn find_seat(&self, route: &Route) -> Result<Seat, OpenError> {
        if self.draining.get() {
            return Err(OpenError::Draining);
        }
        let mut groups = self.groups.borrow_mut();
        let group = match groups.get_mut(&route.key) {
            Some(group) => group,
            None => groups.entry(route.key.clone()).or_default(),
        };
        Ok(group.seat(route.generation, self.limits.max_streams))
    }

    /// A place in the queue for a tunnel that is not made yet.
    pub(super) fn line_up(&self, route: &Route) -> Result<Seat, OpenError> {
        if self.draining.get() {
            return Err(OpenError::Draining);
        }
        Ok(self.groups.borrow_mut().entry(route.key.clone()).or_default().line_up())
    }

    /// How many streams the peer of this key allowed on its last tunnel.
    pub(super) fn presumed_streams(&self, key: &TunnelKey) -> Option<u32> {
        self.groups.borrow().get(key)?.tunnels.last().map(|tunnel| tunnel.session.borrow().max_streams())
    }

    /// Until when the peer of this key has proven itself.
    pub(super) fn proven_until(&self, key: &TunnelKey) -> Option<SystemTime> {
        self.groups.borrow().get(key)?.tunnels.iter().map(|tunnel| tunnel.until()).max()
    }

    /// A dial has ended: gives places to those who wait, in their order, or the failure to all.
    pub(super) fn dialled(&self, key: &TunnelKey, result: &Result<Rc<Tunnel>, OpenError>) {
        let queue = {
            let mut groups = self.groups.borrow_mut();
            let group = groups.entry(key.clone()).or_default();
            if let Ok(tunnel) = result {
                group.add(tunnel);
            }
            group.queue.take().unwrap_or_default()
        };
        if self.draining.get()
            && let Ok(tunnel) = result
        {
            tunnel.retire();
        }
        for turn in queue {
            let answer = match result {
                Ok(tunnel) if !turn.is_closed() => {
                    tunnel.try_seat(self.limits.max_streams).map_or(Turn::Again, Turn::Seated)
                }
                Ok(_) => Turn::Again,
                Err(error) => Turn::Failed(error.clone()),
            };
            // Who has gone away meanwhile gives the place back by not taking it.
            let _ = turn.send(answer);
        }
        self.tidy(key);
    }

    /// A tunnel is over.
    pub(super) fn remove(&self, key: &TunnelKey, tunnel: &Rc<Tunnel>) {
        if let Some(group) = self.groups.borrow_mut().get_mut(key) {
            group.tunnels.retain(|t| !Rc::ptr_eq(t, tunnel));
        }
        self.tidy(key);
    }

    fn tidy(&self, key: &TunnelKey) {
        let mut groups = self.groups.borrow_mut();
        if groups.get(key).is_some_and(Group::is_empty) {
            groups.remove(key);
        }
    }

    pub(super) fn each_tunnel(&self, which: impl Fn(&TunnelKey) -> bool, act: impl Fn(&Tunnel)) {
        let fitting: Vec<_> = {
            let groups = self.groups.borrow();
            let groups = groups.iter().filter(|(key, _)| which(key));
            groups.flat_map(|(_, group)| group.tunnels.iter().cloned()).collect()
        };
        for tunnel in fitting {
            act(&tunnel);
        }
    }
}
