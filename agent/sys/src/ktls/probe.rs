//! Whether the kernel carries TLS here, tried on a connection of our own.

use std::fmt;
use std::io;
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::time::Duration;

use super::{Cipher, DATA, Direction, Key, attach, hand_over, receive, send};

/// What the kernel carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Offer {
    ciphers: [bool; Cipher::ALL.len()],
    /// Whether a direction's key can be replaced, as new keys of the peer's need it (Linux 6.14).
    pub renews: bool,
}

impl Offer {
    /// Whether records of that cipher are carried.
    pub fn has(self, cipher: Cipher) -> bool {
        Cipher::ALL.iter().zip(self.ciphers).any(|(known, has)| *known == cipher && has)
    }
}

impl fmt::Display for Offer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("in the kernel where the cipher is")?;
        let mut before = " ";
        for cipher in Cipher::ALL.into_iter().filter(|cipher| self.has(*cipher)) {
            write!(f, "{before}{cipher:?}")?;
            before = " or ";
        }
        f.write_str(if self.renews { "" } else { "; the kernel cannot replace keys" })
    }
}

/// Why the kernel carries no TLS.
#[derive(Debug, thiserror::Error)]
pub enum Missing {
    /// No module.
    #[error("the kernel has no module tls, or may not load it for this process")]
    NoModule,
    /// Not even the option.
    #[error("the kernel is built without protocols on top of TCP")]
    NoOption,
    /// The module takes none of our ciphers.
    #[error("the kernel's TLS takes none of the ciphers of TLS 1.3 that are used here")]
    NoCipher,
    /// What went in did not come out.
    #[error("what was sent by the kernel's TLS did not arrive as it was")]
    Wrong,
    /// It could not be tried.
    #[error("the kernel's TLS could not be tried: {0}")]
    Untried(#[source] io::Error),
}

/// Sends records of each cipher through a connection on loopback, all by the kernel. Blocks for as long as that takes,
/// a millisecond mostly, and loads the module where this process may.
///
/// # Errors
/// Why there is none.
pub fn probe() -> Result<Offer, Missing> {
    let mut offer = Offer { ciphers: [false; Cipher::ALL.len()], renews: true };
    for (cipher, has) in Cipher::ALL.into_iter().zip(&mut offer.ciphers) {
        match carries(cipher)? {
            None => {}
            Some(renews) => {
                *has = true;
                offer.renews &= renews;
            }
        }
    }
    if offer.ciphers.contains(&true) { Ok(offer) } else { Err(Missing::NoCipher) }
}

/// Whether a key of the cipher can be replaced; nothing if the kernel does not take the cipher.
fn carries(cipher: Cipher) -> Result<Option<bool>, Missing> {
    const KIND: u8 = 21;
    let [near, far] = pair().map_err(Missing::Untried)?;
    for socket in [&near, &far] {
        attach(socket).map_err(|error| match error.raw_os_error() {
            Some(libc::ENOENT) => Missing::NoModule,
            Some(libc::ENOPROTOOPT) => Missing::NoOption,
            _ => Missing::Untried(error),
        })?;
    }
    let lengths = |byte: u8| Key::new(cipher, [byte; 32].get(..cipher.key_length())?, &[byte; 12]);
    let (Some(key), Some(next)) = (lengths(1), lengths(2)) else { return Ok(None) };
    let took = hand_over(&near, Direction::Sending, &key, 7)
        .and_then(|()| hand_over(&far, Direction::Receiving, &key, 7));
    if took.is_err() {
        return Ok(None);
    }
    for (kind, bytes) in [(DATA, b"data"), (KIND, b"kind"), (DATA, b"more")] {
        let mut buffer = [0; 16];
        let sent = send(&near, kind, bytes, false).map_err(Missing::Untried)?;
        let (count, told) = receive(&far, &mut buffer).map_err(Missing::Untried)?;
        if sent != bytes.len() || told != kind || buffer.get(..count) != Some(&bytes[..]) {
            return Err(Missing::Wrong);
        }
    }
    Ok(Some(hand_over(&near, Direction::Sending, &next, 0).is_ok()))
}

fn pair() -> io::Result<[TcpStream; 2]> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let near = TcpStream::connect(listener.local_addr()?)?;
    let (far, from) = listener.accept()?;
    if from != near.local_addr()? {
        return Err(io::Error::other("a stranger connected"));
    }
    // Never waited for in vain by much.
    far.set_read_timeout(Some(Duration::from_secs(1)))?;
    near.set_write_timeout(Some(Duration::from_secs(1)))?;
    Ok([near, far])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_carries_tls_or_says_why_not() {
        // Which of both is the kernel's; `cargo xtask vm` has one that does.
        match (probe(), std::path::Path::new("/proc/net/tls_stat").exists()) {
            (Ok(offer), true) => assert!(Cipher::ALL.into_iter().any(|cipher| offer.has(cipher))),
            (Err(Missing::NoModule | Missing::NoOption), false) => {}
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn an_offer_is_told_in_a_line() {
        let offer = Offer { ciphers: [true, false, true], renews: false };
        assert!(offer.has(Cipher::Aes128Gcm) && !offer.has(Cipher::Aes256Gcm));
        assert_eq!(
            offer.to_string(),
            "in the kernel where the cipher is Aes128Gcm or Chacha20Poly1305; the kernel cannot replace keys"
        );
    }
}
