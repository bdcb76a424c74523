//! Addresses as text. Each connection has four or five of them, in its CONNECT and in its line of the log, and by
//! `fmt` one costs a thousand instructions: nine pieces, each through a formatter of its own.

use std::fmt::{self, Write};
use std::net::{SocketAddr, SocketAddrV4};

/// The longest: `[`, eight groups with seven colons, `%`, a scope of ten digits, `]:`, a port.
const MOST: usize = 1 + 39 + 1 + 10 + 2 + 5;

/// `ip:port` as [`SocketAddr`] displays it, without an allocation.
#[derive(Clone, Copy)]
pub struct AddressText {
    bytes: [u8; MOST],
    length: usize,
}

impl AddressText {
    /// The text of an address.
    pub fn new(address: SocketAddr) -> Self {
        let mut text = Self { bytes: [0; MOST], length: 0 };
        match address {
            SocketAddr::V4(address) => text.v4(address),
            // As long as the longest, so it has room.
            SocketAddr::V6(address) => drop(write!(text, "{address}")),
        }
        text
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        // Only whole texts were written.
        self.bytes.get(..self.length).and_then(|bytes| str::from_utf8(bytes).ok()).unwrap_or_default()
    }

    fn v4(&mut self, address: SocketAddrV4) {
        for (octet, mark) in address.ip().octets().into_iter().zip(*b"...:") {
            self.number(octet.into());
            self.push(mark);
        }
        self.number(address.port());
    }

    fn number(&mut self, number: u16) {
        let mut begins = false;
        for unit in [10_000, 1_000, 100, 10] {
            let digit = number / unit % 10;
            begins |= digit != 0;
            if begins {
                self.digit(digit);
            }
        }
        self.digit(number % 10);
    }

    fn digit(&mut self, digit: u16) {
        self.push(b'0' + u8::try_from(digit).unwrap_or_default());
    }

    fn push(&mut self, byte: u8) {
        if let Some(place) = self.bytes.get_mut(self.length) {
            *place = byte;
            self.length += 1;
        }
    }
}

impl Write for AddressText {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let end = self.length + text.len();
        self.bytes.get_mut(self.length..end).ok_or(fmt::Error)?.copy_from_slice(text.as_bytes());
        self.length = end;
        Ok(())
    }
}

impl fmt::Display for AddressText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for AddressText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv6Addr, SocketAddrV6};

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn it_is_what_display_says(ip: [u8; 4], groups: [u16; 8], flow: u32, scope: u32, port: u16) {
            let v4 = SocketAddr::from((ip, port));
            prop_assert_eq!(AddressText::new(v4).to_string(), v4.to_string());
            for groups in [groups, [0; 8], [0, 0, 0, 0, 0, 0xffff, groups[0], groups[1]]] {
                let v6 = SocketAddr::V6(SocketAddrV6::new(Ipv6Addr::from(groups), port, flow, scope));
                prop_assert_eq!(AddressText::new(v6).to_string(), v6.to_string());
            }
        }
    }

    #[test]
    fn the_longest_has_room() {
        let longest = SocketAddr::V6(SocketAddrV6::new([0xffff; 8].into(), u16::MAX, 0, u32::MAX));
        assert_eq!(longest.to_string().len(), MOST);
        assert_eq!(AddressText::new(longest).as_str(), longest.to_string());
    }
}
