//! Pure: what a terminal shows, as SVG. Of what steers a terminal (ECMA-48) only clearing the screen and graphic
//! renditions count.

use super::escape;

/// Sizes in pixels: of a character, a line, and around all of it.
const WIDE: usize = 8;
const LINE: usize = 19;
const MARGIN: usize = 16;
/// Above the first line, for the window's title.
const HEAD: usize = 40;

/// A terminal is dark whatever the viewer's scheme; classes are SGR parameters.
const STYLE: &str = "\
<style>\
text{font:13px ui-monospace,SFMono-Regular,Menlo,Consolas,'Liberation Mono',monospace;fill:#e6edf3;white-space:pre}\
.ground{fill:#0d1117;stroke:#30363d}.title{fill:#9198a1}\
.r1{font-weight:700}.r31{fill:#ff7b72}.r32{fill:#3fb950}.r33{fill:#d29922}\
</style>";

/// A window with the last screen of this text.
pub(crate) fn draw(title: &str, text: &str) -> String {
    let lines: Vec<Vec<(String, String)>> = screen(text).lines().map(spans).collect();
    let length =
        |line: &Vec<(String, String)>| line.iter().map(|(_, text)| text.chars().count()).sum::<usize>();
    let longest = lines.iter().map(length).max().unwrap_or_default();
    let (width, height) = (2 * MARGIN + longest * WIDE, HEAD + lines.len() * LINE + MARGIN);
    let mut body = String::new();
    for (number, line) in lines.iter().enumerate().filter(|(_, line)| length(line) > 0) {
        let y = HEAD + (number + 1) * LINE - 5;
        // The length is given, or another font would move columns apart.
        let whole = length(line) * WIDE;
        body.push_str(&format!(
            "<text x=\"{MARGIN}\" y=\"{y}\" textLength=\"{whole}\" xml:space=\"preserve\">"
        ));
        for (class, text) in line {
            let text = escape(text);
            if class.is_empty() {
                body.push_str(&text);
            } else {
                body.push_str(&format!("<tspan class=\"{class}\">{text}</tspan>"));
            }
        }
        body.push_str("</text>\n");
    }
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" width=\"{width}\" height=\"{height}\">\
         {STYLE}\n<rect class=\"ground\" x=\"0.5\" y=\"0.5\" width=\"{}\" height=\"{}\" rx=\"8\"/>\n\
         <text class=\"title\" x=\"{MARGIN}\" y=\"25\">{}</text>\n{body}</svg>\n",
        width - 1,
        height - 1,
        escape(title)
    )
}

/// What is there since the screen was cleared last.
fn screen(text: &str) -> String {
    let last = text.rsplit("\x1b[2J").next().unwrap_or_default();
    last.replace('\r', "")
}

/// A line as its renditions and what they are of.
fn spans(line: &str) -> Vec<(String, String)> {
    let mut spans = Vec::new();
    let mut class = String::new();
    let mut parts = line.split("\x1b[");
    let mut add = |class: &str, text: &str| {
        if !text.is_empty() {
            spans.push((class.to_owned(), text.to_owned()));
        }
    };
    add(&class, parts.next().unwrap_or_default());
    for part in parts {
        // Parameters, and then what is to be done with them.
        let end = part.find(|c: char| c.is_ascii_alphabetic()).unwrap_or(part.len());
        let (parameters, rest) = part.split_at(end);
        if rest.starts_with('m') {
            let set = parameters.split(';').filter(|p| !["", "0"].contains(p)).map(|p| format!("r{p}"));
            class = set.collect::<Vec<_>>().join(" ");
        }
        add(&class, rest.get(1..).unwrap_or_default());
    }
    spans
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_screen_is_drawn_with_its_renditions() {
        let text =
            "before\r\n\x1b[2J\x1b[Ha <b>\r\n\r\n\x1b[1mSUCCESS\x1b[0m   x\r\n\x1b[31m50.00%\x1b[0m\r\n";
        assert_eq!(
            spans("\x1b[31m50.00%\x1b[0m  x"),
            [("r31".to_owned(), "50.00%".to_owned()), (String::new(), "  x".to_owned())]
        );
        let drawn = draw("lark & top", text);
        assert!(!drawn.contains("before") && !drawn.contains('\x1b'), "{drawn}");
        for part in [
            ">lark &amp; top</text>",
            ">a &lt;b&gt;</text>",
            "<tspan class=\"r1\">SUCCESS</tspan>   x</text>",
            "<tspan class=\"r31\">50.00%</tspan></text>",
            "textLength=\"88\"",
        ] {
            assert!(drawn.contains(part), "{part} is not in {drawn}");
        }
    }
}
