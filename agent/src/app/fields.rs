//! Fields of a line of the text log. They look as tracing's own do without colours; that one asks for a colour at each
//! piece of each field, which was a third of what a line of the access log cost.

use std::fmt::{self, Debug, Write};

use tracing::field::{Field, Visit};
use tracing_subscriber::field::RecordFields;
use tracing_subscriber::fmt::FormatFields;
use tracing_subscriber::fmt::format::Writer;

/// Writes fields as `message name=value name=value`.
#[derive(Debug)]
pub(super) struct PlainFields;

impl<'w> FormatFields<'w> for PlainFields {
    fn format_fields<R: RecordFields>(&self, writer: Writer<'w>, fields: R) -> fmt::Result {
        let mut visitor = Visitor { writer, is_first: true, result: Ok(()) };
        fields.record(&mut visitor);
        visitor.result
    }
}

struct Visitor<'w> {
    writer: Writer<'w>,
    is_first: bool,
    result: fmt::Result,
}

impl Visitor<'_> {
    fn write(&mut self, name: &str, value: &dyn Debug) -> fmt::Result {
        if !std::mem::take(&mut self.is_first) {
            self.writer.write_char(' ')?;
        }
        if name == "message" {
            return write!(Escaped(&mut self.writer), "{value:?}");
        }
        self.writer.write_str(name.strip_prefix("r#").unwrap_or(name))?;
        write!(self.writer, "={value:?}")
    }
}

impl Visit for Visitor<'_> {
    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == "message" {
            self.record_debug(field, &format_args!("{value}"));
        } else {
            self.record_debug(field, &Quoted(value));
        }
    }

    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        // What the `log` crate tells beside its message is in the line already.
        if self.result.is_ok() && !field.name().starts_with("log.") {
            self.result = self.write(field.name(), value);
        }
    }
}

/// A text in quotes. Most have nothing to escape and are written as they are, where `str` looks at each character.
struct Quoted<'a>(&'a str);

impl Debug for Quoted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.0.bytes().all(|byte| matches!(byte, b' '..=b'~') && !matches!(byte, b'"' | b'\\')) {
            return self.0.fmt(f);
        }
        f.write_char('"')?;
        f.write_str(self.0)?;
        f.write_char('"')
    }
}

/// Lets nothing through that a terminal would obey, whoever's words a message has in it.
struct Escaped<'a, 'w>(&'a mut Writer<'w>);

impl Write for Escaped<'_, '_> {
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
            tracing::info!(target: "access", n = 5, src.addr = %"10.0.0.1:1", detail = "a \u{1b}[31m\"b\"\n", none, "connection");
            tracing::warn!("{} \u{1b}[31mred", "words of others");
            tracing::error!(r#type = ?Some(1), ok = true);
        });
        let bytes = into.0.lock().unwrap().clone();
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn lines_are_as_tracing_writes_them() {
        let own = logged(PlainFields);
        assert!(
            own.contains("access: connection n=5 src.addr=10.0.0.1:1 detail=\"a \\u{1b}[31m\\\"b\\\"\\n\""),
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
