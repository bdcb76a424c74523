//! Header blocks (RFC 7541), decoded as they arrive and kept nowhere. The tunnels' own decoder
//! (`crate::framing`) wants whole blocks and returns whole fields.

use super::event::{GrpcStatus, Method, Opaque};
use super::huffman::Huffman;
use super::table::{Field, Name, Table};

/// Bytes kept of a string: `application/grpc` and what follows it.
const KEPT: usize = 17;
const _: () = assert!(KEPT >= Name::KEPT);

/// What one header block says.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Fields {
    pub(super) method: Option<Method>,
    pub(super) status: Option<u16>,
    pub(super) is_grpc: bool,
    pub(super) grpc_status: Option<GrpcStatus>,
}

impl Fields {
    fn set(&mut self, field: Field) {
        match field {
            Field::Other(_) => {}
            Field::Method(method) => self.method = Some(method),
            Field::Status(status) => self.status = Some(status),
            Field::ContentType(is_grpc) => self.is_grpc = is_grpc,
            Field::GrpcStatus(status) => self.grpc_status = Some(status),
        }
    }
}

/// Where in a block the next byte belongs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    /// To a new field.
    Field,
    /// To its index or the table's size, beyond the first byte.
    Index,
    /// To a string's length.
    Length,
    /// The same beyond the first byte.
    LongLength,
    Text,
}

/// The forms of a field (section 6).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    Indexed,
    Inserted,
    Plain,
    Resize,
}

/// Decodes the blocks of one direction.
#[derive(Debug)]
pub(super) struct Decoder {
    table: Table,
    part: Part,
    form: Form,
    /// An integer that is arriving, and by how much its next bits are shifted.
    integer: usize,
    shift: u8,
    /// The name, once it is there; strings are values then.
    name: Option<Name>,
    text: Text,
    /// Bytes of the string that are still to come.
    left: usize,
}

impl Decoder {
    pub(super) const fn new() -> Self {
        Self {
            table: Table::new(),
            part: Part::Field,
            form: Form::Plain,
            integer: 0,
            shift: 0,
            name: None,
            text: Text::new(),
            left: 0,
        }
    }

    pub(super) fn heap_bytes(&self) -> usize {
        self.table.heap_bytes()
    }

    /// Whether the bytes so far are whole fields, as they have to be at the end of a block.
    pub(super) fn is_between(&self) -> bool {
        self.part == Part::Field
    }

    /// Decodes the next bytes of a block.
    pub(super) fn feed(&mut self, mut block: &[u8], fields: &mut Fields) -> Result<(), Opaque> {
        while let Some((first, rest)) = block.split_first() {
            if self.part == Part::Text {
                let (now, later) = block.split_at(self.left.min(block.len()));
                self.text.feed(now)?;
                self.left -= now.len();
                block = later;
                self.end_of_text(fields)?;
                continue;
            }
            block = rest;
            match self.part {
                Part::Field => {
                    let (form, prefix) = form(*first);
                    (self.form, self.name) = (form, None);
                    self.begin_integer(*first, prefix, Part::Index);
                }
                Part::Length => {
                    self.text = Text { is_huffman: first & 0x80 != 0, ..Text::new() };
                    self.begin_integer(*first, 7, Part::LongLength);
                }
                _ => self.go_on_integer(*first)?,
            }
            if self.shift == WHOLE {
                if matches!(self.part, Part::Index) { self.index(fields)? } else { self.length(fields)? }
            }
        }
        Ok(())
    }

    /// Integers, section 5.1.
    fn begin_integer(&mut self, first: u8, prefix: u8, part: Part) {
        let mask = (1_usize << prefix) - 1;
        self.integer = usize::from(first) & mask;
        self.shift = if self.integer < mask { WHOLE } else { 0 };
        self.part = part;
    }

    fn go_on_integer(&mut self, byte: u8) -> Result<(), Opaque> {
        // Beyond 2^28 nobody has a use for it.
        if self.shift > 21 {
            return Err(Opaque::Broken);
        }
        self.integer += (usize::from(byte) & 0x7f) << self.shift;
        self.shift = if byte & 0x80 == 0 { WHOLE } else { self.shift + 7 };
        Ok(())
    }

    fn index(&mut self, fields: &mut Fields) -> Result<(), Opaque> {
        self.part = Part::Field;
        match (self.form, self.integer) {
            (Form::Indexed, index) => fields.set(self.table.get(index)?),
            (Form::Resize, max) => self.table.resize(max),
            (_, 0) => self.part = Part::Length,
            (_, index) => {
                self.name = Some(self.table.get(index)?.name());
                self.part = Part::Length;
            }
        }
        Ok(())
    }

    fn length(&mut self, fields: &mut Fields) -> Result<(), Opaque> {
        self.part = Part::Text;
        self.left = self.integer;
        if let Some(name @ Name::Other(_)) = self.name {
            // Nobody wants the value, and its length matters only where it decides whether the entry fits. No
            // code of the alphabet is shorter than five bits.
            let most = if self.text.is_huffman { self.left * 8 / 5 } else { self.left };
            let fits = self.table.room(name).is_some_and(|room| most <= room);
            self.text.is_skipped = fits || self.form != Form::Inserted;
        }
        self.end_of_text(fields)
    }

    fn end_of_text(&mut self, fields: &mut Fields) -> Result<(), Opaque> {
        if self.left > 0 {
            return Ok(());
        }
        self.text.finish()?;
        let (kept, length) = (self.text.kept(), self.text.length);
        let Some(name) = self.name else {
            self.name = Some(Name::of(kept, length)?);
            self.part = Part::Length;
            return Ok(());
        };
        let field = name.with(kept);
        fields.set(field);
        if self.form == Form::Inserted {
            self.table.insert(field, length);
        }
        self.part = Part::Field;
        Ok(())
    }
}

/// In place of a shift: the integer is there.
const WHOLE: u8 = u8::MAX;

fn form(first: u8) -> (Form, u8) {
    match first {
        0x80.. => (Form::Indexed, 7),
        0x40..0x80 => (Form::Inserted, 6),
        0x20..0x40 => (Form::Resize, 5),
        _ => (Form::Plain, 4),
    }
}

/// A string that is arriving, of which only the beginning is kept.
#[derive(Debug)]
struct Text {
    kept: [u8; KEPT],
    /// Decoded; of a string that is skipped, too little, which does no harm.
    length: usize,
    is_huffman: bool,
    is_skipped: bool,
    huffman: Huffman,
}

impl Text {
    const fn new() -> Self {
        Self { kept: [0; KEPT], length: 0, is_huffman: false, is_skipped: false, huffman: Huffman::new() }
    }

    fn kept(&self) -> &[u8] {
        self.kept.get(..self.length).unwrap_or(&self.kept)
    }

    fn feed(&mut self, bytes: &[u8]) -> Result<(), Opaque> {
        if self.is_skipped {
            return Ok(());
        }
        if !self.is_huffman {
            for (place, byte) in self.kept.iter_mut().skip(self.length).zip(bytes) {
                *place = *byte;
            }
            self.length += bytes.len();
            return Ok(());
        }
        let Self { kept, length, huffman, .. } = self;
        bytes.iter().try_for_each(|byte| huffman.octet(*byte, |symbol| keep(kept, length, symbol)))
    }

    fn finish(&mut self) -> Result<(), Opaque> {
        let Self { kept, length, huffman, .. } = self;
        if self.is_huffman && !self.is_skipped {
            huffman.finish(|symbol| keep(kept, length, symbol))?;
        }
        Ok(())
    }
}

fn keep(kept: &mut [u8; KEPT], length: &mut usize, symbol: u8) {
    if let Some(place) = kept.get_mut(*length) {
        *place = symbol;
    }
    *length += 1;
}
