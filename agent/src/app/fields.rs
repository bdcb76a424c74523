//! Fields of a line of the text log. They look as tracing's own do without colours; that one asks for a colour at each
//! piece of each field, which was a third of what a line of the access log cost.

use std::cell::RefCell;
use std::fmt::{self, Debug, Write};
use std::time::{Duration, UNIX_EPOCH};

use lark_core::field;
use tracing::field::{Field, Visit};
use tracing_subscriber::field::RecordFields;
use tracing_subscriber::fmt::FormatFields;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::{FormatTime, SystemTime};

/// The time as tracing has it, `2026-11-27T09:30:01.123456Z`, of which only the fraction is made for each line.
#[derive(Debug)]
pub(super) struct Clock;

thread_local! {
    /// A second since the epoch, and how it is written up to the point.
    static SECOND: RefCell<(u64, String)> = const { RefCell::new((u64::MAX, String::new())) };
}

impl FormatTime for Clock {
    fn format_time(&self, writer: &mut Writer<'_>) -> fmt::Result {
        let mut now = now();
        SECOND.with_borrow_mut(|(second, text)| {
            // Once more if the next has begun meanwhile.
            while *second != now.as_secs() {
                let begun = now.as_secs();
                text.clear();
                SystemTime.format_time(&mut Writer::new(text))?;
                text.truncate(text.find('.').unwrap_or(text.len()));
                now = self::now();
                *second = if now.as_secs() == begun { begun } else { u64::MAX };
            }
            let mut fraction = *b".000000Z";
            let mut left = now.subsec_micros();
            for digit in fraction.iter_mut().skip(1).take(6).rev() {
                *digit += u8::try_from(left % 10).unwrap_or_default();
                left /= 10;
            }
            writer.write_str(text)?;
            writer.write_str(str::from_utf8(&fraction).unwrap_or_default())
        })
    }
}

fn now() -> Duration {
    UNIX_EPOCH.elapsed().unwrap_or_default()
}

/// Writes fields as `message name=value name=value`.
#[derive(Debug)]
pub(super) struct PlainFields;

impl<'w> FormatFields<'w> for PlainFields {
    fn format_fields<R: RecordFields>(&self, mut writer: Writer<'w>, fields: R) -> fmt::Result {
        // In one piece: the writer is behind two pointers, and a line has some two hundred.
        let mut visitor = Visitor { line: String::with_capacity(LINE), is_first: true, result: Ok(()) };
        fields.record(&mut visitor);
        visitor.result.and_then(|()| writer.write_str(&visitor.line))
    }
}

/// Bytes that a line of the access log takes, or a little more.
const LINE: usize = 1024;

struct Visitor {
    line: String,
    is_first: bool,
    result: fmt::Result,
}

impl Visitor {
    /// What the `log` crate tells beside its message is in the line already.
    fn is_told(&self, name: &str) -> bool {
        self.result.is_ok() && !(name.starts_with('l') && name.starts_with("log."))
    }

    fn begin(&mut self) {
        if !std::mem::take(&mut self.is_first) {
            self.line.push(' ');
        }
    }

    fn other(&mut self, name: &str, value: &dyn Debug) -> fmt::Result {
        if name == "message" {
            self.begin();
            return write!(Escaped(&mut self.line), "{value:?}");
        }
        self.begin();
        field::name(&mut self.line, name);
        write!(self.line, "{value:?}")
    }
}

impl Visit for Visitor {
    fn record_str(&mut self, field: &Field, value: &str) {
        match field.name() {
            "message" => self.record_debug(field, &format_args!("{value}")),
            name if self.is_told(name) => {
                self.begin();
                field::text(&mut self.line, name, value);
            }
            _ => {}
        }
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        match field.name() {
            "message" => self.record_debug(field, &value),
            name if self.is_told(name) => {
                self.begin();
                field::name(&mut self.line, name);
                self.line.push_str(itoa::Buffer::new().format(value));
            }
            _ => {}
        }
    }

    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        if self.is_told(field.name()) {
            self.result = self.other(field.name(), value);
        }
    }
}

/// Lets nothing through that a terminal would obey, whoever's words a message has in it.
struct Escaped<'a>(&'a mut String);

impl Write for Escaped<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        if !text.contains(|c: char| c.is_control() && c != '\n' && c != '\t') {
            return self.0.write_str(text);
        }
        for c in text.chars() {
            match c {
                '\n' | '\t' => self.0.write_char(c)?,
                c if c.is_control() => write!(self.0, "{}", c.escape_unicode())?,
                c => self.0.write_char(c)?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    /// What is logged with fields written in that way.
    fn logged(fields: impl for<'w> FormatFields<'w> + Send + Sync + 'static) -> String {
        #[derive(Clone, Default)]
        struct Into(Arc<Mutex<Vec<u8>>>);
        impl std::io::Write for Into {
            fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
                self.0.lock().unwrap().extend_from_slice(bytes);
                Ok(bytes.len())
            }
            fn flush(&mut self) -> std::io::Result<()> {
                Ok(())
            }
        }
        let into = Into::default();
        let theirs = into.clone();
        let subscriber = tracing_subscriber::fmt()
            .with_ansi(false)
            .without_time()
            .fmt_fields(fields)
            .with_writer(move || theirs.clone())
            .finish();
        tracing::subscriber::with_default(subscriber, || {
            let none: Option<&str> = None;
            tracing::info!(target: "access", n = 5_u64, less = -5, big = u64::MAX, secured = "√ mTLS", src.addr = %"10.0.0.1:1", detail = "a \u{1b}[31m\"b\"\n", none, "connection");
            tracing::warn!("{} \u{1b}[31mred", "words of others");
            tracing::error!(r#type = ?Some(1), ok = true);
        });
        let bytes = into.0.lock().unwrap().clone();
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn the_time_is_what_tracing_writes() {
        let written = |clock: &dyn Fn(&mut Writer<'_>) -> fmt::Result| {
            let mut text = String::new();
            clock(&mut Writer::new(&mut text)).unwrap();
            text
        };
        let began = now();
        // Over the end of a second at least once.
        while now() < began + Duration::from_millis(1_100) {
            let before = written(&|writer| SystemTime.format_time(writer));
            let own = written(&|writer| Clock.format_time(writer));
            let after = written(&|writer| SystemTime.format_time(writer));
            assert!(before <= own && own <= after, "{before} {own} {after}");
            assert_eq!(own.len(), before.len());
        }
    }

    #[test]
    fn lines_are_as_tracing_writes_them() {
        let own = logged(PlainFields);
        assert!(
            own.contains("access: connection n=5 less=-5 big=18446744073709551615 secured=\"√ mTLS\" src.addr=10.0.0.1:1 detail=\"a \\u{1b}[31m\\\"b\\\"\\n\""),
            "{own}"
        );
        assert!(!own.contains('\u{1b}'), "{own}");
        let first = |text: &str| text.lines().next().map(str::to_owned);
        assert_eq!(first(&own), first(&logged(tracing_subscriber::fmt::format::DefaultFields::new())));
        assert_eq!(
            own.lines().last(),
            logged(tracing_subscriber::fmt::format::DefaultFields::new()).lines().last()
        );
    }
}
