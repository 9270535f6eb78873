//! How is an SVG written? Text and rectangles, in colors that are told apart in print and on dark pages.

use std::fmt::{Display, Write as _};

use crate::participants::Kind;

/// What is written in: ink, and what is to be seen less.
pub(super) const INK: &str = "#1f2328";
pub(super) const GRAY: &str = "#6e7781";
pub(super) const LINE: &str = "#d0d7de";

/// Where words end up beside the place that is given for them.
#[derive(Debug, Clone, Copy)]
pub(super) enum Side {
    Right,
    Left,
    Middle,
}

/// A picture that grows.
pub(super) struct Canvas(String);

impl Canvas {
    pub(super) fn new() -> Canvas {
        Canvas(String::new())
    }

    pub(super) fn bar(&mut self, x: f64, y: f64, width: f64, height: f64, fill: &str) {
        self.put(format_args!(
            r#"<rect x="{x:.1}" y="{y:.1}" width="{:.1}" height="{height:.1}" rx="1.5" fill="{fill}"/>"#,
            width.max(1.0)
        ));
    }

    pub(super) fn line(&mut self, (x1, y1): (f64, f64), (x2, y2): (f64, f64), stroke: &str, width: f64) {
        self.put(format_args!(
            r#"<path d="M{x1:.1} {y1:.1}L{x2:.1} {y2:.1}" stroke="{stroke}" stroke-width="{width}"/>"#
        ));
    }

    pub(super) fn dot(&mut self, x: f64, y: f64, radius: f64, fill: &str) {
        self.put(format_args!(r#"<circle cx="{x:.1}" cy="{y:.1}" r="{radius}" fill="{fill}"/>"#));
    }

    /// `y` is where the letters stand.
    pub(super) fn text(&mut self, x: f64, y: f64, size: f64, fill: &str, side: Side, words: &str) {
        self.words(x, y, format_args!(r#"font-size="{size}" fill="{fill}""#), side, words);
    }

    pub(super) fn bold(&mut self, x: f64, y: f64, size: f64, side: Side, words: &str) {
        self.words(x, y, format_args!(r#"font-size="{size}" fill="{INK}" font-weight="600""#), side, words);
    }

    fn words(&mut self, x: f64, y: f64, style: impl Display, side: Side, words: &str) {
        let anchor = match side {
            Side::Right => "start",
            Side::Left => "end",
            Side::Middle => "middle",
        };
        let words = words.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
        self.put(format_args!(r#"<text x="{x:.1}" y="{y:.1}" {style} text-anchor="{anchor}">{words}</text>"#));
    }

    fn put(&mut self, element: impl Display) {
        // Writing to a String cannot fail.
        let _ = writeln!(self.0, "{element}");
    }

    /// What is drawn over this one.
    pub(super) fn append(&mut self, over: Canvas) {
        self.0 += &over.0;
    }

    /// The whole file, on a page of its own: where it is shown may be dark.
    pub(super) fn finish(self, width: f64, height: f64) -> String {
        let font = "ui-sans-serif,-apple-system,'Segoe UI',Helvetica,Arial,'DejaVu Sans',sans-serif";
        format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width:.0} {height:.0}\" width=\"{width:.0}\" \
             height=\"{height:.0}\" font-family=\"{font}\">\n\
             <rect width=\"{width:.0}\" height=\"{height:.0}\" rx=\"6\" fill=\"#ffffff\"/>\n{}</svg>\n",
            self.0
        )
    }
}

/// bgproxy stands out; who only shows how low it could be is gray.
pub(super) fn color(kind: Kind) -> &'static str {
    match kind {
        Kind::Bgproxy => "#0969da",
        Kind::Other => "#54aeff",
        Kind::Nginx => "#2da44e",
        Kind::Haproxy => "#d4780a",
        Kind::Caddy => "#a475c9",
        Kind::Alone => "#8c959f",
        Kind::Relay => "#c4cbd3",
    }
}
