//! Huffman strings (RFC 7541, section 5.2) octet by octet, over the library's table: the library's own decoder
//! wants a whole string and room for it.

use super::event::Opaque;

/// The next row, or a symbol and how many of the four bits are left over.
type Target = (Option<u8>, Option<u16>, u8);

/// A row and four bits give a target.
static TABLE: [[Target; 16]; 54] = httlib_huffman::decoder::table4::DECODE_TABLE;

/// A string that is being decoded.
#[derive(Debug, Clone, Copy)]
pub(super) struct Huffman {
    row: u8,
    /// Bits not looked up yet, in the low end.
    bits: u16,
    /// How many those are; fewer than four between octets.
    count: u8,
    /// Bits since the last symbol, and whether all of them were ones: what padding looks like.
    open: u8,
    ones: bool,
}

impl Huffman {
    pub(super) const fn new() -> Self {
        Self { row: 0, bits: 0, count: 0, open: 0, ones: true }
    }

    /// Takes an octet and gives what symbols it completes.
    pub(super) fn octet(&mut self, octet: u8, mut symbol: impl FnMut(u8)) -> Result<(), Opaque> {
        self.bits = (self.bits & 0xf) << 8 | u16::from(octet);
        self.count += 8;
        while self.count >= 4 {
            let key = self.bits >> (self.count - 4) & 0xf;
            match self.look_up(key)? {
                (_, Some(code), left) => {
                    // 256 is the end of strings, which must not occur in one.
                    symbol(u8::try_from(code).map_err(|_| Opaque::Broken)?);
                    self.count = self.count - 4 + left;
                    (self.row, self.open, self.ones) = (0, 0, true);
                }
                (Some(row), None, _) => {
                    self.count -= 4;
                    self.row = row;
                    self.open = self.open.saturating_add(4);
                    self.ones &= key == 0xf;
                }
                (None, None, _) => return Err(Opaque::Broken),
            }
        }
        Ok(())
    }

    /// The string is over: gives the symbol that may lie in the last bits, and checks the padding.
    pub(super) fn finish(mut self, mut symbol: impl FnMut(u8)) -> Result<(), Opaque> {
        let missing = 4 - self.count;
        let key = ((self.bits << missing) | ((1 << missing) - 1)) & 0xf;
        if self.count > 0
            && let (_, Some(code), left) = self.look_up(key)?
            && left >= missing
        {
            symbol(u8::try_from(code).map_err(|_| Opaque::Broken)?);
            (self.count, self.open, self.ones) = (left - missing, 0, true);
        }
        let rest = (1 << self.count) - 1;
        let padded = self.ones && self.bits & rest == rest && self.open.saturating_add(self.count) < 8;
        if padded { Ok(()) } else { Err(Opaque::Broken) }
    }

    fn look_up(&self, key: u16) -> Result<Target, Opaque> {
        let row = TABLE.get(usize::from(self.row)).ok_or(Opaque::Broken)?;
        row.get(usize::from(key)).copied().ok_or(Opaque::Broken)
    }
}
