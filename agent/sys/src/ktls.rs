//! TLS 1.3 records that the kernel carries (Documentation/networking/tls.rst; net/tls, the module `tls`).
//!
//! Whoever has made a handshake gives each direction's key to the socket. From there on plaintext is written and read,
//! and a record of another kind than data is told by a control message. Nothing here decides when.

use std::io;
use std::mem::{offset_of, size_of};
use std::os::fd::{AsFd, AsRawFd};

mod message;
mod probe;

pub use message::{receive, send};
pub use probe::{Missing, Offer, probe};

/// Kind of a record of data, as it stands on the wire (RFC 8446, section 5.1).
pub const DATA: u8 = 23;

/// How records are sealed (RFC 8446, appendix B.4).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cipher {
    /// AES-128-GCM.
    Aes128Gcm,
    /// AES-256-GCM.
    Aes256Gcm,
    /// ChaCha20-Poly1305.
    Chacha20Poly1305,
}

impl Cipher {
    /// All that TLS 1.3 has here, ChaCha20 last.
    pub const ALL: [Self; 3] = [Self::Aes128Gcm, Self::Aes256Gcm, Self::Chacha20Poly1305];

    /// Bytes of a key.
    pub const fn key_length(self) -> usize {
        match self {
            Self::Aes128Gcm => 16,
            Self::Aes256Gcm | Self::Chacha20Poly1305 => 32,
        }
    }

    const fn number(self) -> u16 {
        match self {
            Self::Aes128Gcm => libc::TLS_CIPHER_AES_GCM_128,
            Self::Aes256Gcm => libc::TLS_CIPHER_AES_GCM_256,
            Self::Chacha20Poly1305 => libc::TLS_CIPHER_CHACHA20_POLY1305,
        }
    }

    /// Bytes of the nonce's constant part that the kernel calls its salt.
    const fn salt(self) -> usize {
        match self {
            Self::Aes128Gcm | Self::Aes256Gcm => 4,
            Self::Chacha20Poly1305 => 0,
        }
    }

    const fn info(self) -> usize {
        HEAD + NONCE + self.key_length() + SEQUENCE
    }
}

/// Bytes of a nonce.
const NONCE: usize = 12;
const SEQUENCE: usize = 8;
const HEAD: usize = size_of::<libc::tls_crypto_info>();
const INFO_MAX: usize = HEAD + NONCE + 32 + SEQUENCE;

// The structures of linux/tls.h consist of bytes behind their head, so they are written as such: iv, key, salt, sequence.
const _: () = {
    assert!(size_of::<libc::tls12_crypto_info_aes_gcm_128>() == Cipher::Aes128Gcm.info());
    assert!(size_of::<libc::tls12_crypto_info_aes_gcm_256>() == Cipher::Aes256Gcm.info());
    assert!(size_of::<libc::tls12_crypto_info_chacha20_poly1305>() == Cipher::Chacha20Poly1305.info());
    assert!(offset_of!(libc::tls12_crypto_info_aes_gcm_256, key) == HEAD + 8);
    assert!(offset_of!(libc::tls12_crypto_info_aes_gcm_256, salt) == HEAD + 8 + 32);
    assert!(offset_of!(libc::tls12_crypto_info_chacha20_poly1305, key) == HEAD + NONCE);
};

/// Which way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// What is written to the socket.
    Sending,
    /// What is read from it.
    Receiving,
}

impl Direction {
    const fn option(self) -> libc::c_int {
        match self {
            Self::Sending => libc::TLS_TX,
            Self::Receiving => libc::TLS_RX,
        }
    }
}

/// A key of one direction. It is wiped when it is dropped.
pub struct Key {
    cipher: Cipher,
    key: [u8; 32],
    iv: [u8; NONCE],
}

impl Drop for Key {
    fn drop(&mut self) {
        wipe(&mut self.key);
        wipe(&mut self.iv);
    }
}

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Key").field("cipher", &self.cipher).finish_non_exhaustive()
    }
}

impl Key {
    /// `key` and `iv` as TLS derives them (RFC 8446, section 7.3); nothing if a length is not the cipher's.
    pub fn new(cipher: Cipher, key: &[u8], iv: &[u8]) -> Option<Self> {
        let mut own = Self { cipher, key: [0; 32], iv: iv.try_into().ok()? };
        if key.len() != cipher.key_length() {
            return None;
        }
        own.key.get_mut(..key.len())?.copy_from_slice(key);
        Some(own)
    }

    /// How it seals.
    pub const fn cipher(&self) -> Cipher {
        self.cipher
    }

    /// The structure that the kernel takes, and its length.
    fn info(&self, sequence: u64) -> (Info, usize) {
        let (salt, iv) = self.iv.split_at(self.cipher.salt());
        let mut info = Info([0; INFO_MAX]);
        let (version, cipher) = (libc::TLS_1_3_VERSION.to_ne_bytes(), self.cipher.number().to_ne_bytes());
        let key = self.key.get(..self.cipher.key_length()).unwrap_or_default();
        let mut length = 0;
        for part in [&version[..], &cipher, iv, key, salt, &sequence.to_be_bytes()] {
            if let Some(place) = info.0.get_mut(length..length + part.len()) {
                place.copy_from_slice(part);
            }
            length += part.len();
        }
        (info, length)
    }
}

/// Wiped when it is dropped, as the key is.
#[repr(C, align(4))]
struct Info([u8; INFO_MAX]);

impl Drop for Info {
    fn drop(&mut self) {
        wipe(&mut self.0);
    }
}

/// Leaves nothing of a key in memory that is used for something else next.
fn wipe(bytes: &mut [u8]) {
    // SAFETY: the pointer and the length are those of a slice that is borrowed for the call.
    unsafe { libc::explicit_bzero(bytes.as_mut_ptr().cast(), bytes.len()) }
}

/// Lets the socket speak TLS; nothing changes until it has a key. The kernel loads its module for a process with
/// CAP_NET_ADMIN (`__tcp_ulp_find_autoload`, net/ipv4/tcp_ulp.c).
///
/// # Errors
/// `NotFound` where there is no module, `ENOPROTOOPT` where the kernel knows of none; others mean that the socket is
/// not connected or speaks already.
pub fn attach(socket: &impl AsFd) -> io::Result<()> {
    set(socket, libc::IPPROTO_TCP, libc::TCP_ULP, b"tls")
}

/// Gives one direction's key to the socket, of which `sequence` records have passed. The first byte that is written or
/// read next must be the first of a record. A second key for a direction takes Linux 6.14.
///
/// # Errors
/// `ResourceBusy` when the direction has a key that the kernel does not replace; what the system says.
pub fn hand_over(socket: &impl AsFd, direction: Direction, key: &Key, sequence: u64) -> io::Result<()> {
    let (info, length) = key.info(sequence);
    set(socket, libc::SOL_TLS, direction.option(), info.0.get(..length).unwrap_or_default())
}

/// Tells the kernel that no record is padded, so that it decrypts into the reader's memory (Linux 6.0); a padded one
/// costs a second decryption. Where that is not known, nothing changes.
pub fn expect_no_padding(socket: &impl AsFd) {
    let _ = set(socket, libc::SOL_TLS, libc::TLS_RX_EXPECT_NO_PAD, &1_i32.to_ne_bytes());
}

/// How many records have passed with the direction's key.
///
/// # Errors
/// When it has none of that cipher.
pub fn sequence(socket: &impl AsFd, direction: Direction, cipher: Cipher) -> io::Result<u64> {
    let mut info = Info([0; INFO_MAX]);
    let mut length = libc::socklen_t::try_from(cipher.info()).unwrap_or_default();
    // SAFETY: the descriptor is open for the call; `length` is at most the size of `info`, which outlives it, and the
    // kernel writes no more than that.
    let result = unsafe {
        libc::getsockopt(
            socket.as_fd().as_raw_fd(),
            libc::SOL_TLS,
            direction.option(),
            info.0.as_mut_ptr().cast(),
            &raw mut length,
        )
    };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    let end = info.0.get(..cipher.info()).and_then(|info| info.last_chunk());
    Ok(end.copied().map_or(0, u64::from_be_bytes))
}

/// What the kernel says of a record that it does not take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refused {
    /// It was not sealed with the key, or is no record.
    Broken,
    /// It is longer than a record may be.
    TooLong,
}

impl Refused {
    /// Of an error of the socket's, by whatever call it is told; nothing if it says something else (`tls_rx_msg_size`
    /// and `tls_rx_one_record`, net/tls/tls_sw.c).
    pub fn of(error: &io::Error) -> Option<Self> {
        match error.raw_os_error()? {
            libc::EBADMSG => Some(Self::Broken),
            libc::EMSGSIZE => Some(Self::TooLong),
            _ => None,
        }
    }
}

fn set(socket: &impl AsFd, level: libc::c_int, option: libc::c_int, value: &[u8]) -> io::Result<()> {
    let size = libc::socklen_t::try_from(value.len()).unwrap_or_default();
    // SAFETY: the descriptor is open for the call, and the pointer and size describe `value`, which outlives it.
    let result =
        unsafe { libc::setsockopt(socket.as_fd().as_raw_fd(), level, option, value.as_ptr().cast(), size) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_laid_out_as_the_kernel_wants_it() {
        let (key, iv): (Vec<u8>, Vec<u8>) = ((100..132).collect(), (1..13).collect());
        let gcm = Key::new(Cipher::Aes128Gcm, &key[..16], &iv).unwrap();
        let (info, length) = gcm.info(0x0102_0304_0506_0708);
        let wanted = [
            &0x0304_u16.to_ne_bytes()[..],
            &51_u16.to_ne_bytes(),
            &iv[4..],
            &key[..16],
            &iv[..4],
            &[1, 2, 3, 4, 5, 6, 7, 8],
        ];
        assert_eq!(info.0[..length], wanted.concat());
        let chacha = Key::new(Cipher::Chacha20Poly1305, &key, &iv).unwrap();
        let (info, length) = chacha.info(9);
        let wanted =
            [&0x0304_u16.to_ne_bytes()[..], &54_u16.to_ne_bytes(), &iv, &key, &[0, 0, 0, 0, 0, 0, 0, 9]];
        assert_eq!(info.0[..length], wanted.concat());
        assert!(Key::new(Cipher::Aes256Gcm, &key[..16], &iv).is_none());
        assert!(Key::new(Cipher::Aes256Gcm, &key, &iv[..8]).is_none());
        assert_eq!(format!("{gcm:?}"), "Key { cipher: Aes128Gcm, .. }");
    }
}
