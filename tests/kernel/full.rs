//! Maps that are full, and maps of another size than those that are there.

use std::net::{IpAddr, Ipv4Addr};

use lark_abi::{Address, DestinationKey, DestinationValue};
use lark_bpf::{Kernel, KernelConfig};

use crate::room::Room;

fn destinations(numbers: impl Iterator<Item = u32>) -> Vec<(DestinationKey, DestinationValue)> {
    let entry = |number: u32| {
        let address: Address = IpAddr::from(Ipv4Addr::from(0x0a00_0000 + number)).into();
        let key = DestinationKey { address_be: address.words_be, port: 0, padding: 0 };
        (key, DestinationValue { action: DestinationValue::REDIRECT })
    };
    numbers.map(entry).collect()
}

fn usage(kernel: &Kernel) -> (usize, u32) {
    let all = kernel.usage().unwrap();
    let found = all.iter().find(|usage| usage.map == "DESTINATIONS").unwrap();
    (found.entries, found.max)
}

#[test]
fn of_more_than_fits_the_first_are_held() {
    let mut room = Room::new();
    let more = 1024 + 6;
    let synced = room.kernel.sync_destinations(destinations(0..more)).unwrap();
    assert_eq!((synced.written, synced.removed, synced.left_out), (1024, 0, 6));
    // The last ones come first now, and take the place of those that come last.
    let synced = room.kernel.sync_destinations(destinations((0..more).rev())).unwrap();
    assert_eq!((synced.written, synced.removed, synced.left_out), (6, 6, 6));
    let synced = room.kernel.sync_destinations(destinations((6..more).rev())).unwrap();
    assert_eq!((synced.written, synced.removed, synced.left_out), (0, 0, 0));
    assert_eq!(usage(&room.kernel), (1024, 1024));
}

#[test]
fn a_map_of_another_size_is_made_anew() {
    let mut room = Room::new();
    for (size, left_out) in [(1024, 476), (2048, 0), (1024, 476)] {
        let config = KernelConfig { pin_root: room.pins.clone(), destinations_max: size };
        room.kernel = Kernel::open(&config).unwrap();
        let synced = room.kernel.sync_destinations(destinations(0..1500)).unwrap();
        assert_eq!((synced.left_out, usage(&room.kernel).1), (left_out, size));
    }
}
