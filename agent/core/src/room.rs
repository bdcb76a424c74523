//! So many connections from one address and so many at all: who opens more holds up nobody.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

#[derive(Debug, Default)]
struct Taken {
    all: usize,
    by: HashMap<IpAddr, usize>,
}

/// What is taken, and how much there is. Cheap to clone; clones are one.
#[derive(Debug, Clone)]
pub struct Room {
    from_one: usize,
    all: usize,
    taken: Arc<Mutex<Taken>>,
}

/// One place; given back when dropped.
#[derive(Debug)]
pub struct Place {
    room: Room,
    address: IpAddr,
}

impl Room {
    /// Room for so many from one address, and so many at all.
    pub fn new(from_one: usize, all: usize) -> Self {
        Self { from_one, all, taken: Arc::default() }
    }

    /// A place for a connection from an address, if there is one.
    pub fn take(&self, address: IpAddr) -> Option<Place> {
        let mut taken = self.taken();
        let from_it = taken.by.get(&address).copied().unwrap_or(0);
        if taken.all >= self.all || from_it >= self.from_one {
            return None;
        }
        taken.all += 1;
        taken.by.insert(address, from_it + 1);
        Some(Place { room: self.clone(), address })
    }

    fn taken(&self) -> MutexGuard<'_, Taken> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self.room.taken();
        taken.all = taken.all.saturating_sub(1);
        match taken.by.get_mut(&self.address) {
            Some(count) if *count > 1 => *count -= 1,
            _ => drop(taken.by.remove(&self.address)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_address_takes_its_share_and_no_more_and_gives_it_back() {
        let room = Room::new(64, 65);
        let (greedy, other) = (IpAddr::from([192, 0, 2, 1]), IpAddr::from([192, 0, 2, 2]));
        let mut places: Vec<Place> = (0..64).map(|_| room.take(greedy).unwrap()).collect();
        assert!(room.take(greedy).is_none());
        let place = room.take(other).unwrap();
        // All of it is taken.
        assert!(room.take(other).is_none());
        places.pop();
        places.push(room.take(greedy).unwrap());
        drop((places, place));
        let taken = room.taken();
        assert_eq!((taken.all, taken.by.len()), (0, 0));
    }
}
