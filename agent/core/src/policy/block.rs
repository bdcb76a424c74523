//! Ranges of addresses (CIDR, RFC 4632 and RFC 4291 section 2.3) with holes.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

/// All addresses that begin with the same bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Cidr {
    network: IpAddr,
    length: u8,
}

/// Why a text is no range.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BlockError {
    /// It has another form than `ADDRESS/LENGTH`.
    #[error("{0:?} is not of the form ADDRESS/LENGTH, for example 10.0.0.0/8")]
    Form(String),
    /// It is an IPv4 range in an IPv6 coat, which no connection is compared with.
    #[error("{0:?} is an IPv4 range written as IPv6; write it as IPv4")]
    Mapped(String),
    /// A hole is not inside.
    #[error("except {except} is not inside of {cidr}, or is all of it")]
    Except {
        /// The hole.
        except: Cidr,
        /// The range.
        cidr: Cidr,
    },
}

fn bits(address: IpAddr) -> (u128, u8) {
    match address {
        // At the top of the word, so that a prefix is a prefix in both families.
        IpAddr::V4(v4) => (u128::from(v4.to_bits()) << 96, 32),
        IpAddr::V6(v6) => (v6.to_bits(), 128),
    }
}

impl Cidr {
    /// Whether the address, in canonical form, is in the range. Families never match each other.
    pub fn contains(&self, address: IpAddr) -> bool {
        let (own, width) = bits(self.network);
        let (other, other_width) = bits(address);
        let differ = own ^ other;
        // A shift by all bits of the word is none in Rust: the empty prefix is told apart.
        width == other_width && (self.length == 0 || differ >> (128 - u32::from(self.length)) == 0)
    }

    /// The first address, and how many bits of it count.
    pub fn parts(&self) -> (IpAddr, u8) {
        (self.network, self.length)
    }

    /// Whether the other range is inside and not all of this one.
    fn holds(&self, other: &Self) -> bool {
        other.length > self.length && self.contains(other.network)
    }
}

impl FromStr for Cidr {
    type Err = BlockError;

    /// Bits beyond the length count for nothing, as Kubernetes has it (`net.ParseCIDR`).
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let form = || BlockError::Form(text.chars().take(64).collect());
        let (network, length) = text.split_once('/').ok_or_else(form)?;
        let network: IpAddr = network.parse().map_err(|_| form())?;
        let plain = !length.is_empty() && length.bytes().all(|b| b.is_ascii_digit());
        let length: u8 = length.parse().ok().filter(|_| plain).ok_or_else(form)?;
        let (_, width) = bits(network);
        if length > width {
            return Err(form());
        }
        if network.to_canonical() != network {
            return Err(BlockError::Mapped(text.chars().take(64).collect()));
        }
        Ok(Self { network, length })
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.network, self.length)
    }
}

/// A range without its holes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Block {
    cidr: Cidr,
    except: Vec<Cidr>,
}

impl Block {
    /// A range and its holes.
    ///
    /// # Errors
    /// When a text is no range, or a hole is not strictly inside.
    pub fn new(cidr: &str, except: &[String]) -> Result<Self, BlockError> {
        let cidr: Cidr = cidr.parse()?;
        let except = except.iter().map(|text| text.parse()).collect::<Result<Vec<Cidr>, _>>()?;
        match except.iter().find(|hole| !cidr.holds(hole)) {
            Some(hole) => Err(BlockError::Except { except: *hole, cidr }),
            None => Ok(Self { cidr, except }),
        }
    }

    /// Whether the address, in canonical form, is in the range and in none of its holes.
    pub fn contains(&self, address: IpAddr) -> bool {
        self.cidr.contains(address) && !self.except.iter().any(|hole| hole.contains(address))
    }
}

impl fmt::Display for Block {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.cidr)?;
        self.except.iter().try_for_each(|hole| write!(f, " except {hole}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_range_holds_what_begins_like_it() {
        for (cidr, address, inside) in [
            ("10.0.0.0/8", "10.255.0.1", true),
            ("10.0.0.0/8", "11.0.0.1", false),
            ("10.1.2.3/8", "10.9.9.9", true),
            ("0.0.0.0/0", "255.1.1.1", true),
            ("0.0.0.0/0", "::1", false),
            ("::/0", "fd00::1", true),
            ("::/0", "10.0.0.1", false),
            ("fd00::/64", "fd00::ffff:1", true),
            ("fd00::/64", "fd00:0:0:1::1", false),
            ("10.0.0.1/32", "10.0.0.1", true),
            ("10.0.0.1/32", "10.0.0.2", false),
            ("fd00::1/128", "fd00::1", true),
        ] {
            let cidr: Cidr = cidr.parse().unwrap();
            assert_eq!(cidr.contains(address.parse().unwrap()), inside, "{cidr} {address}");
        }
    }

    #[test]
    fn what_is_no_range_is_refused() {
        for text in [
            "",
            "10.0.0.0",
            "10.0.0.0/",
            "10.0.0.0/33",
            "10.0.0.0/+8",
            "::/129",
            "a/8",
            "10.0/8",
            "::ffff:10.0.0.0/104",
        ] {
            assert!(text.parse::<Cidr>().is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn a_prefix_is_compared_bit_by_bit(a: u32, b: u32, length in 0_u8..=32) {
            let cidr = Cidr { network: IpAddr::V4(a.into()), length };
            let same = (0..u32::from(length)).all(|i| a >> (31 - i) & 1 == b >> (31 - i) & 1);
            prop_assert_eq!(cidr.contains(IpAddr::V4(b.into())), same);
        }

        #[test]
        fn a_hole_is_outside(a: u32, length in 0_u8..32, inner in 1_u8..=32) {
            let network = IpAddr::V4(a.into());
            let block = Block::new(&format!("{network}/{length}"), &[format!("{network}/{inner}")]);
            prop_assert_eq!(block.is_ok(), inner > length);
            prop_assert!(block.is_err() || !block.unwrap().contains(network));
        }
    }
}
