//! Pure: what all pictures share. SVG by hand: panels in two columns under a title and a caption, in the
//! colours of the viewer's own scheme.

/// What a terminal shows.
pub(crate) mod terminal;

use std::fmt::Write;

/// Sizes in pixels.
pub(crate) const PANEL: usize = 430;
/// Left of the first column.
pub(crate) const MARGIN: usize = 16;
/// Above the first panel.
pub(crate) const HEAD: usize = 78;
/// A panel of lines with its heading.
pub(crate) const ROW: usize = 196;
/// Lines, within their panel.
const HEIGHT: f64 = 120.0;
const WIDTH: f64 = 352.0;
/// Left of the lines, for the numbers.
const AXIS: usize = 52;
/// Most points of a line; each stands for the highest of its share, so that no peak is lost.
const POINTS: usize = 176;

/// A line over time: its name, its colour's class, its points, seconds first.
pub(crate) struct Line {
    pub(crate) name: String,
    pub(crate) colour: usize,
    pub(crate) points: Vec<(f64, f64)>,
}

/// An upright line: its class, `up` or `kill`, and its second.
pub(crate) type Mark = (&'static str, f64);

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

/// Lines over time below a scale of their own. `until` is the last second, and the unit, with its seconds, in
/// which that is written.
pub(crate) fn lines(
    all: &[Line],
    marks: &[Mark],
    until: (f64, f64, &str),
    left: usize,
    top: usize,
) -> String {
    #[expect(clippy::cast_precision_loss, reason = "pixels")]
    let (x0, y0) = ((left + AXIS) as f64, top as f64);
    let (end, seconds, unit) = until;
    let highest = all.iter().flat_map(|line| &line.points).map(|(_, value)| *value).fold(0.0, f64::max);
    let most = if highest > 0.0 { highest } else { 1.0 };
    let place = |(at, value): (f64, f64)| (x0 + WIDTH * at / end, y0 + HEIGHT * (1.0 - value / most));
    let mut out = String::new();
    // Writing into a string cannot fail.
    let mut line = |text: String| {
        let _ = writeln!(out, "{text}");
    };
    for (part, value) in [(0.0, most), (0.5, most / 2.0), (1.0, 0.0)] {
        let y = y0 + HEIGHT * part;
        line(format!(
            "<path class=\"rule\" d=\"M{x0} {y}h{WIDTH}\"/><text class=\"small\" x=\"{}\" y=\"{}\" text-anchor=\"end\">{}</text>",
            x0 - 6.0,
            y + 4.0,
            number(value)
        ));
    }
    for (class, at) in marks {
        let (x, _) = place((*at, 0.0));
        line(format!("<path class=\"{class}\" d=\"M{x:.1} {y0}v{HEIGHT}\"/>"));
    }
    let mut legend = x0;
    for Line { name, colour, points } in all {
        let highest = |share: &[(f64, f64)]| share.iter().copied().max_by(|a, b| a.1.total_cmp(&b.1));
        let thinned = points.chunks(points.len().div_ceil(POINTS).max(1)).filter_map(highest);
        let path: Vec<String> = thinned
            .map(|point| {
                let (x, y) = place(point);
                format!("{x:.1} {y:.1}")
            })
            .collect();
        line(format!("<path class=\"s s{colour}\" d=\"M{}\"/>", path.join("L")));
        line(format!(
            "<text class=\"small c{colour}\" x=\"{legend}\" y=\"{}\">{}</text>",
            y0 + HEIGHT + 16.0,
            escape(name)
        ));
        #[expect(clippy::cast_precision_loss, reason = "pixels")]
        let wide = name.chars().count() as f64;
        legend += 14.0 + 7.0 * wide;
    }
    line(format!(
        "<text class=\"small\" x=\"{}\" y=\"{}\" text-anchor=\"end\">{} {unit}</text>",
        x0 + WIDTH,
        y0 + HEIGHT + 16.0,
        number(end / seconds)
    ));
    out
}

fn number(value: f64) -> String {
    if value >= 10.0 || value.fract() == 0.0 { format!("{value:.0}") } else { format!("{value:.1}") }
}
