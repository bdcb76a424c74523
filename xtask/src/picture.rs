//! Pure: what all pictures share. SVG by hand: panels in two columns under a title and a caption, in the
//! colours of the viewer's own scheme.

/// Sizes in pixels.
pub(crate) const PANEL: usize = 430;
/// Left of the first column.
pub(crate) const MARGIN: usize = 16;
/// Above the first panel.
pub(crate) const HEAD: usize = 78;

/// Series of a panel take turns at the classes `c0` to `c6`; `s` colours a line instead of an area.
const STYLE: &str = "\
<style>\
text{font:12px system-ui,sans-serif;fill:#1f2328}.title{font-weight:600}.small{fill:#59636e}\
.ground{fill:#fff}.c0{fill:#8c959f}.c1{fill:#b6c2cf}.c2{fill:#d4884a}.c3{fill:#1a7f5a}\
.c4{fill:#8250df}.c5{fill:#bf3989}.c6{fill:#0969da}\
.s{fill:none;stroke-width:1.5}.s0{stroke:#8c959f}.s2{stroke:#d4884a}.s3{stroke:#1a7f5a}.s4{stroke:#8250df}\
.rule{stroke:#d1d9e0;stroke-width:1}.up{stroke:#0969da;stroke-width:1;opacity:.35}.kill{stroke:#cf222e;stroke-width:1;opacity:.35}\
@media (prefers-color-scheme:dark){text{fill:#e6edf3}.small{fill:#9198a1}.ground{fill:#0d1117}\
.c0{fill:#7d8590}.c1{fill:#4d5761}.c2{fill:#e0995e}.c3{fill:#3fb984}.c4{fill:#ab7df8}.c5{fill:#db61a2}.c6{fill:#4493f8}\
.s0{stroke:#7d8590}.s2{stroke:#e0995e}.s3{stroke:#3fb984}.s4{stroke:#ab7df8}.rule{stroke:#30363d}.up{stroke:#4493f8}.kill{stroke:#f85149}}\
</style>";

/// A whole picture of two columns of panels that end at `height`.
pub(crate) fn frame(title: &str, caption: &str, body: &str, height: usize) -> String {
    let width = MARGIN + 2 * PANEL;
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" width=\"{width}\" height=\"{height}\">\
         {STYLE}\n<rect class=\"ground\" width=\"{width}\" height=\"{height}\"/>\n\
         <text class=\"title\" x=\"16\" y=\"26\">{}</text>\n\
         <text class=\"small\" x=\"16\" y=\"46\">{}</text>\n{body}</svg>\n",
        escape(title),
        escape(caption)
    )
}

/// The heading of a panel.
pub(crate) fn heading(left: usize, top: usize, title: &str, small: &str) -> String {
    format!(
        "<text x=\"{left}\" y=\"{}\"><tspan class=\"title\">{}</tspan> <tspan class=\"small\">{}</tspan></text>\n",
        top + 16,
        escape(title),
        escape(small)
    )
}

/// Text between tags.
pub(crate) fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}
