//! Lines of HTTP/1.x, of which the beginning and the end are kept.

/// Bytes kept from a line's beginning: any field that decides where a message ends is shorter, or is not trusted.
const BEGIN: usize = 64;

/// Bytes kept from a line's end: ` HTTP/1.1` and a carriage return.
const END: usize = 10;

/// A line that is arriving.
#[derive(Debug)]
pub(super) struct Line {
    begin: [u8; BEGIN],
    /// Flush with its end.
    end: [u8; END],
    length: usize,
}

/// A line that has arrived, without what ended it. How it was cut into slices cannot be seen.
#[derive(Debug, Clone, Copy)]
pub(super) struct Whole<'a> {
    /// Its first bytes; all of them unless it is `long`.
    pub(super) begin: &'a [u8],
    /// Its last bytes.
    pub(super) end: &'a [u8],
    /// Whether there is more than `begin`.
    pub(super) long: bool,
    /// Whether it ended with both characters rather than with a line feed alone.
    pub(super) crlf: bool,
}

impl<'a> Whole<'a> {
    /// `begin` and `end` still have the carriage return if it falls into them.
    fn new(begin: &'a [u8], end: &'a [u8], length: usize) -> Self {
        let crlf = end.last() == Some(&b'\r');
        let text = length - usize::from(crlf);
        let end = end.get(..end.len() - usize::from(crlf)).unwrap_or_default();
        Self { begin: begin.get(..text.min(BEGIN)).unwrap_or_default(), end, long: text > BEGIN, crlf }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.begin.is_empty()
    }
}

impl Line {
    pub(super) const fn new() -> Self {
        Self { begin: [0; BEGIN], end: [0; END], length: 0 }
    }

    /// Whether nothing of the next line has arrived.
    pub(super) fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// Forgets the line that was whole.
    pub(super) fn clear(&mut self) {
        self.length = 0;
    }

    /// Takes bytes up to the end of the line and says how many that were. [`Line::clear`] comes before the next.
    pub(super) fn take<'a>(&'a mut self, bytes: &'a [u8]) -> (usize, Option<Whole<'a>>) {
        let Some(feed) = bytes.iter().position(|byte| *byte == b'\n') else {
            self.push(bytes);
            return (bytes.len(), None);
        };
        let (text, _) = bytes.split_at(feed);
        if self.length == 0 {
            // The usual case: nothing is copied.
            let begin = text.get(..BEGIN).unwrap_or(text);
            let end = text.get(text.len().saturating_sub(END)..).unwrap_or_default();
            return (feed + 1, Some(Whole::new(begin, end, text.len())));
        }
        self.push(text);
        let begin = self.begin.get(..self.length).unwrap_or(&self.begin);
        let end = self.end.get(END.saturating_sub(self.length)..).unwrap_or_default();
        (feed + 1, Some(Whole::new(begin, end, self.length)))
    }

    fn push(&mut self, bytes: &[u8]) {
        for (place, byte) in self.begin.iter_mut().skip(self.length).zip(bytes) {
            *place = *byte;
        }
        let last = bytes.get(bytes.len().saturating_sub(END)..).unwrap_or_default();
        self.end.rotate_left(last.len());
        for (place, byte) in self.end.iter_mut().rev().zip(last.iter().rev()) {
            *place = *byte;
        }
        self.length = self.length.saturating_add(bytes.len());
    }
}
