//! Addresses and tuples as they lie in keys: always sixteen bytes, an IPv4 address in its mapped
//! form `::ffff:a.b.c.d` (RFC 4291, section 2.5.5.2), words in network byte order.

/// An IP address of either family.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(C)]
pub struct Address {
    /// The four words, each in network byte order.
    pub words_be: [u32; 4],
}

const MAPPED: u32 = 0x0000_ffff_u32.to_be();
const LOOPBACK6: u32 = 1_u32.to_be();

impl Address {
    /// `::`, which also stands for "none".
    pub const UNSPECIFIED: Self = Self { words_be: [0; 4] };

    /// An IPv4 address from its word in network byte order.
    #[inline(always)]
    pub const fn v4(word_be: u32) -> Self {
        Self { words_be: [0, 0, MAPPED, word_be] }
    }

    /// An IPv6 address (or a mapped IPv4 one) from its words in network byte order.
    #[inline(always)]
    pub const fn v6(words_be: [u32; 4]) -> Self {
        Self { words_be }
    }

    /// Whether it is an IPv4 address in mapped form.
    #[inline(always)]
    pub const fn is_v4(&self) -> bool {
        self.words_be[0] == 0 && self.words_be[1] == 0 && self.words_be[2] == MAPPED
    }

    /// The IPv4 word in network byte order; meaningful only if [`Self::is_v4`].
    #[inline(always)]
    pub const fn word_v4_be(&self) -> u32 {
        self.words_be[3]
    }

    /// `::`, or `0.0.0.0` in mapped form.
    #[inline(always)]
    pub const fn is_unspecified(&self) -> bool {
        self.words_be[0] == 0
            && self.words_be[1] == 0
            && self.words_be[3] == 0
            && (self.words_be[2] == 0 || self.words_be[2] == MAPPED)
    }

    /// 127/8 or `::1`.
    #[inline(always)]
    pub const fn is_loopback(&self) -> bool {
        if self.is_v4() {
            u32::from_be(self.words_be[3]) >> 24 == 127
        } else {
            self.words_be[0] == 0
                && self.words_be[1] == 0
                && self.words_be[2] == 0
                && self.words_be[3] == LOOPBACK6
        }
    }

    /// Whether the kernel's own answers to what goes from here to `other` are lost: resets above all, where nobody
    /// listens or has the connection any more. To `::1` it routes them by the device that `other` belongs to, where
    /// `::1` is not (`tcp_v6_send_response`, net/ipv6/tcp_ipv6.c; `rt6_need_strict`, include/net/ip6_route.h; the
    /// device is the destination's, `ip6_rcv_core`, net/ipv6/ip6_input.c). Answers of a socket take its route and
    /// arrive.
    #[inline(always)]
    pub const fn loses_resets_of(&self, other: &Self) -> bool {
        !self.is_v4() && self.is_loopback() && !other.is_loopback()
    }

    /// Word by word, because the BPF back end would otherwise call `memcmp`.
    #[inline(always)]
    pub const fn same(&self, other: &Self) -> bool {
        self.words_be[0] == other.words_be[0]
            && self.words_be[1] == other.words_be[1]
            && self.words_be[2] == other.words_be[2]
            && self.words_be[3] == other.words_be[3]
    }

    /// The loopback address of the same family.
    #[inline(always)]
    pub const fn loopback_of_family(&self) -> Self {
        if self.is_v4() { Self::v4(0x7f00_0001_u32.to_be()) } else { Self { words_be: [0, 0, 0, LOOPBACK6] } }
    }

    /// The sixteen bytes in network order.
    pub fn octets(&self) -> [u8; 16] {
        let mut octets = [0; 16];
        for (bytes, word) in octets.chunks_exact_mut(4).zip(self.words_be) {
            bytes.copy_from_slice(&word.to_ne_bytes());
        }
        octets
    }
}

impl From<core::net::IpAddr> for Address {
    fn from(address: core::net::IpAddr) -> Self {
        let octets = match address {
            core::net::IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
            core::net::IpAddr::V6(v6) => v6.octets(),
        };
        let word = |i: usize| u32::from_ne_bytes([octets[i], octets[i + 1], octets[i + 2], octets[i + 3]]);
        Self { words_be: [word(0), word(4), word(8), word(12)] }
    }
}

impl From<Address> for core::net::IpAddr {
    /// The canonical form: a mapped address comes out as IPv4.
    fn from(address: Address) -> Self {
        core::net::Ipv6Addr::from(address.octets()).to_canonical()
    }
}

/// A TCP connection inside one network namespace, as its initiator sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(C)]
pub struct Tuple {
    /// `SO_NETNS_COOKIE` of the namespace.
    pub netns: u64,
    /// Address of the initiator.
    pub source: Address,
    /// Address of the acceptor.
    pub destination: Address,
    /// Port of the initiator, host byte order.
    pub source_port: u16,
    /// Port of the acceptor, host byte order.
    pub destination_port: u16,
    /// Always zero: the kernel hashes padding too.
    pub padding: u32,
}

const _: () = assert!(size_of::<Address>() == 16);
const _: () = assert!(size_of::<Tuple>() == 48);

#[cfg(test)]
mod tests {
    use super::*;
    use core::net::IpAddr;
    use proptest::prelude::*;

    #[test]
    fn resets_are_lost_on_the_way_to_the_loopback_of_ipv6_alone() {
        let cases = [
            ("::1", "fd00::2", true),
            ("::1", "fe80::2", true),
            ("::1", "::1", false),
            ("fd00::2", "::1", false),
            ("fd00::2", "fd00::2", false),
            ("127.1.2.3", "10.0.0.2", false),
        ];
        for (source, destination, expected) in cases {
            let address = |text: &str| Address::from(text.parse::<IpAddr>().unwrap());
            let lost = address(source).loses_resets_of(&address(destination));
            assert_eq!(lost, expected, "{source} to {destination}");
        }
    }

    proptest! {
        #[test]
        fn an_address_survives_the_way_there_and_back(bits: u128, v4: u32, is_v4: bool) {
            let address = if is_v4 { IpAddr::V4(v4.into()) } else { IpAddr::V6(bits.into()) };
            let there = Address::from(address);
            prop_assert_eq!(IpAddr::from(there), address.to_canonical());
            prop_assert_eq!(there.is_loopback(), address.to_canonical().is_loopback());
            prop_assert_eq!(there.is_unspecified(), address.to_canonical().is_unspecified());
            prop_assert_eq!(there.is_v4(), address.to_canonical().is_ipv4());
        }
    }

    #[test]
    fn loopback_keeps_the_family() {
        let v4 = Address::from("10.1.2.3".parse::<IpAddr>().unwrap());
        let v6 = Address::from("fd00::1".parse::<IpAddr>().unwrap());
        assert_eq!(IpAddr::from(v4.loopback_of_family()), "127.0.0.1".parse::<IpAddr>().unwrap());
        assert_eq!(IpAddr::from(v6.loopback_of_family()), "::1".parse::<IpAddr>().unwrap());
    }
}
