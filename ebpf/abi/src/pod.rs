//! Which types aya may copy to and from maps byte by byte.

use crate::address::{Address, Tuple};
use crate::direct::{DirectEvent, DirectKey, DirectSocket, DirectValue};
use crate::entry::{
    Config, DestinationKey, DestinationValue, Flow, Guard, Pass, PeerName, PodEntry, Refused,
};

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
    DirectEvent,
    DirectKey,
    DirectSocket,
    DirectValue,
    Flow,
    Guard,
    Pass,
    PeerName,
    PodEntry,
    Refused
);
