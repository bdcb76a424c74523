//! What is kept of header fields: a tag of two bytes each, so that the table that two peers agree on costs
//! 256 bytes here instead of 4 KiB (RFC 7541, section 2.3).

use std::collections::VecDeque;

use crate::framing::hpack::STATIC;

use super::event::{GrpcStatus, Method, Opaque, decimal};

/// Entries kept. A table of the default 4,096 bytes never has more: each counts 32 bytes and its strings.
pub(super) const ENTRIES: usize = 128;

/// What a dynamic table holds at first, in bytes as RFC 7541, section 4.1 counts them.
const DEFAULT_SIZE: usize = 4096;

/// Names whose values mean something here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Name {
    /// None of them, with its length.
    Other(u16),
    Method,
    Status,
    ContentType,
    GrpcStatus,
}

/// A field: its name, and its value if that means something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Field {
    /// With the length of the name.
    Other(u16),
    Method(Method),
    /// 0 if it is none.
    Status(u16),
    /// Whether it is gRPC's.
    ContentType(bool),
    GrpcStatus(GrpcStatus),
}

impl Name {
    /// The longest of them, and one byte to tell that there is more.
    pub(super) const KEPT: usize = 13;

    pub(super) fn of(name: &[u8], length: usize) -> Result<Self, Opaque> {
        Ok(match name.get(..length) {
            Some(b":method") => Self::Method,
            Some(b":status") => Self::Status,
            Some(b"content-type") => Self::ContentType,
            Some(b"grpc-status") => Self::GrpcStatus,
            _ => Self::Other(
                u16::try_from(length).ok().filter(|l| *l <= Packed::MOST).ok_or(Opaque::HeaderTable)?,
            ),
        })
    }

    pub(super) fn length(self) -> usize {
        match self {
            Self::Other(length) => usize::from(length),
            Self::Method | Self::Status => 7,
            Self::ContentType => 12,
            Self::GrpcStatus => 11,
        }
    }

    /// The field with this value, of which the beginning suffices.
    pub(super) fn with(self, value: &[u8]) -> Field {
        match self {
            Self::Other(length) => Field::Other(length),
            Self::Method => Field::Method(Method::of(value)),
            Self::Status => Field::Status(status(value).unwrap_or(0)),
            Self::ContentType => Field::ContentType(is_grpc(value)),
            Self::GrpcStatus => Field::GrpcStatus(GrpcStatus::of(value)),
        }
    }
}

fn status(value: &[u8]) -> Option<u16> {
    let code = decimal(value).filter(|code| value.len() == 3 && *code >= 100)?;
    u16::try_from(code).ok()
}

/// `application/grpc`, alone or with a sub-format or parameters; not gRPC-Web, whose trailers are in the body
/// (grpc/grpc, doc/PROTOCOL-HTTP2.md).
fn is_grpc(value: &[u8]) -> bool {
    let Some((media, rest)) = value.split_at_checked(16) else { return false };
    media.eq_ignore_ascii_case(b"application/grpc") && matches!(rest.first(), None | Some(b'+' | b';' | b' '))
}

impl Field {
    pub(super) fn name(self) -> Name {
        match self {
            Self::Other(length) => Name::Other(length),
            Self::Method(_) => Name::Method,
            Self::Status(_) => Name::Status,
            Self::ContentType(_) => Name::ContentType,
            Self::GrpcStatus(_) => Name::GrpcStatus,
        }
    }
}

/// A field in two bytes: three bits for the name, the others for the value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Packed(u16);

impl Packed {
    const MOST: u16 = (1 << 13) - 1;

    fn new(field: Field) -> Self {
        let (name, value) = match field {
            Field::Other(length) => (0, length),
            Field::Method(method) => (1, method as u16),
            Field::Status(code) => (2, code),
            Field::ContentType(is_grpc) => (3, u16::from(is_grpc)),
            Field::GrpcStatus(status) => (4, u16::from(status.code())),
        };
        Self(name << 13 | value & Self::MOST)
    }

    fn field(self) -> Field {
        let value = self.0 & Self::MOST;
        let at = usize::from(value);
        match self.0 >> 13 {
            1 => Field::Method(Method::ALL.get(at).copied().unwrap_or(Method::Other)),
            2 => Field::Status(value),
            3 => Field::ContentType(value != 0),
            4 => Field::GrpcStatus(GrpcStatus::ALL.get(at).copied().unwrap_or(GrpcStatus::Unknown)),
            _ => Field::Other(value),
        }
    }
}

/// The dynamic table of one direction.
///
/// Eviction is not followed: indices count from the newest entry, and no encoder refers to an entry that it has
/// evicted. Only whether an entry is inserted at all depends on sizes.
#[derive(Debug)]
pub(super) struct Table {
    newest_first: VecDeque<Packed>,
    /// In bytes; what the encoder announces in its blocks, whatever the SETTINGS allow it.
    max: usize,
}

impl Table {
    pub(super) const fn new() -> Self {
        Self { newest_first: VecDeque::new(), max: DEFAULT_SIZE }
    }

    pub(super) fn heap_bytes(&self) -> usize {
        self.newest_first.capacity() * size_of::<Packed>()
    }

    /// The field with this index, 1 being the first of the static table.
    pub(super) fn get(&self, index: usize) -> Result<Field, Opaque> {
        let at = index.checked_sub(1).ok_or(Opaque::Broken)?;
        if let Some((name, value)) = STATIC.get(at) {
            return Ok(Name::of(name.as_bytes(), name.len())?.with(value.as_bytes()));
        }
        // An old entry of a large table, or none at all.
        let older = if self.newest_first.len() == ENTRIES { Opaque::HeaderTable } else { Opaque::Broken };
        self.newest_first.get(at - STATIC.len()).map(|packed| packed.field()).ok_or(older)
    }

    pub(super) fn resize(&mut self, max: usize) {
        self.max = max;
        if max == 0 {
            self.newest_first.clear();
        }
    }

    /// The longest value with which an entry of that name fits.
    pub(super) fn room(&self, name: Name) -> Option<usize> {
        self.max.checked_sub(32 + name.length())
    }

    /// An entry that is too large empties the table and is not kept (section 4.4).
    pub(super) fn insert(&mut self, field: Field, value_length: usize) {
        if self.room(field.name()).is_none_or(|room| value_length > room) {
            self.newest_first.clear();
            return;
        }
        self.newest_first.truncate(ENTRIES - 1);
        self.newest_first.push_front(Packed::new(field));
    }
}
