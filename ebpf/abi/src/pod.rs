//! Which types aya may copy to and from maps byte by byte.

use crate::address::{Address, Tuple};
use crate::direct::{DirectKey, DirectValue};
use crate::entry::{
    Config, DestinationKey, DestinationValue, Flow, Guard, Pass, PeerName, PodEntry, Refused,
};
use crate::follow::{FollowedEvent, FollowedSocket};

macro_rules! plain {
    ($($kind:ty),+) => { $(
        // SAFETY: `repr(C)`, `Copy`, 'static, made of integers only, every bit pattern is valid, and
        // the size assertions beside the types leave no implicit padding.
        unsafe impl aya::Pod for $kind {}
    )+ };
}

plain!(
    Address,
    Tuple,
    Config,
    DestinationKey,
    DestinationValue,
    DirectKey,
    DirectValue,
    Flow,
    FollowedEvent,
    FollowedSocket,
    Guard,
    Pass,
    PeerName,
    PodEntry,
    Refused
);
