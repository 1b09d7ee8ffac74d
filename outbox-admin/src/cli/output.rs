//! How commands write: text for people or JSON for programs, to a terminal or
//! a pipe. Stored text is not trusted: no control character of it reaches a
//! terminal.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::io::{self, IsTerminal, Write as _};
use std::time::Duration;

use comfy_table::{Cell, Color, ColumnConstraint, ContentArrangement, Table, Width, presets};
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;

use super::CommandError;

/// For people or for programs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Format {
    /// Tables and sentences.
    #[default]
    Text,
    /// One JSON document, with RFC 3339 times.
    Json,
}

/// The option of every command that shows something.
#[derive(Clone, Copy, Debug, clap::Args)]
pub(super) struct OutputOptions {
    /// How the result is written to standard output.
    #[arg(long, short, value_enum, default_value_t = Format::Text)]
    output: Format,
}

impl OutputOptions {
    pub(super) fn is_json(self) -> bool {
        self.output == Format::Json
    }
}

/// Writes to standard output, a line feed after it.
pub(super) fn print(text: &str) -> Result<(), CommandError> {
    let mut stdout = io::stdout().lock();
    writeln!(stdout, "{text}")
        .and_then(|()| stdout.flush())
        .map_err(CommandError::Output)
}

/// Writes a JSON document, over many lines.
pub(super) fn print_json(value: &impl Serialize) -> Result<(), CommandError> {
    let text =
        serde_json::to_string_pretty(value).map_err(|error| CommandError::Output(error.into()))?;
    print(&without_controls(&text))
}

/// Writes a JSON document in one line.
pub(super) fn print_json_line(value: &impl Serialize) -> Result<(), CommandError> {
    let text = serde_json::to_string(value).map_err(|error| CommandError::Output(error.into()))?;
    print(&without_controls(&text))
}

/// A remark that is no result: to standard error.
pub(super) fn remark(text: &str) {
    eprintln!("{}", without_controls(text));
}

/// `text` with every character that a terminal could obey written as JSON
/// writes it (`\u001b`), but for line feeds. Within JSON it stays the same
/// JSON.
pub(super) fn without_controls(text: &str) -> Cow<'_, str> {
    if !text.chars().any(|c| c != '\n' && obeyed(c)) {
        return Cow::Borrowed(text);
    }
    let mut plain = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        if c != '\n' && obeyed(c) {
            // All of them have at most four digits.
            let _ = write!(plain, "\\u{:04x}", u32::from(c));
        } else {
            plain.push(c);
        }
    }
    Cow::Owned(plain)
}

/// One line of at most `length` characters.
pub(super) fn line(text: &str, length: usize) -> String {
    let mut line = without_controls(text).replace('\n', "\\n");
    if let Some((at, _)) = line.char_indices().nth(length) {
        line.truncate(at);
        line.push('…');
    }
    line
}

/// Controls (C0, C1 and DEL), what ends a line elsewhere, and what changes the
/// direction of text, so that it reads as something else.
fn obeyed(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// JSON over many lines, its numbers, keys and strings as they stand; what is
/// no JSON as it is.
pub(super) fn pretty(payload: &str) -> String {
    // Deeper nesting is not indented further: a payload may have 100,000
    // levels.
    const MAX_INDENT: usize = 32;
    if serde_json::from_str::<&serde_json::value::RawValue>(payload).is_err() {
        return without_controls(payload).into_owned();
    }
    let new_line = |out: &mut String, depth: usize| {
        out.push('\n');
        out.extend(std::iter::repeat_n("  ", depth.min(MAX_INDENT)));
    };
    let mut out = String::with_capacity(payload.len() * 2);
    let (mut depth, mut in_string, mut escaped) = (0_usize, false, false);
    let mut characters = payload.chars().peekable();
    while let Some(c) = characters.next() {
        if in_string {
            out.push(c);
            in_string = escaped || c != '"';
            escaped = c == '\\' && !escaped;
            continue;
        }
        match c {
            ' ' | '\t' | '\n' | '\r' => {}
            '"' => {
                in_string = true;
                out.push(c);
            }
            '{' | '[' => {
                out.push(c);
                while characters.next_if(|c| c.is_ascii_whitespace()).is_some() {}
                if let Some(end) = characters.next_if(|c| matches!(c, '}' | ']')) {
                    out.push(end);
                } else {
                    depth += 1;
                    new_line(&mut out, depth);
                }
            }
            '}' | ']' => {
                depth = depth.saturating_sub(1);
                new_line(&mut out, depth);
                out.push(c);
            }
            ',' => {
                out.push(c);
                new_line(&mut out, depth);
            }
            ':' => out.push_str(": "),
            other => out.push(other),
        }
    }
    without_controls(&out).into_owned()
}

/// A table of plain columns. No cell is broken, however narrow the terminal, so
/// that an id that is copied from it is whole.
pub(super) fn table(headers: &[&str]) -> Table {
    let mut table = Table::new();
    table
        .load_style(presets::NOTHING)
        .set_header(headers.to_vec());
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
        column.set_constraint(ColumnConstraint::ContentWidth);
    }
    if !io::stdout().is_terminal() {
        table.force_no_tty();
    }
    table
}

/// The same with a last column of text, which on a terminal takes what the
/// others leave, and a little at least.
pub(super) fn table_with_text(headers: &[&str]) -> Table {
    const LEAST: Width = Width::Fixed(16);
    let mut table = table(headers);
    if let Some(text) = table.column_iter_mut().next_back() {
        text.set_constraint(ColumnConstraint::LowerBoundary(LEAST));
    }
    if io::stdout().is_terminal() {
        table.set_content_arrangement(ContentArrangement::Dynamic);
    }
    table
}

/// The rows of a table without the blanks at the ends of lines.
pub(super) fn text_of(table: &Table) -> String {
    table.trim_fmt()
}

/// How something is, for its colour.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mood {
    Good,
    Bad,
    Neutral,
}

/// A cell in the colour of `mood`, on a terminal that shows colours.
pub(super) fn cell(text: &str, mood: Mood) -> Cell {
    let cell = Cell::new(text);
    match mood {
        Mood::Good if ::console::colors_enabled() => cell.fg(Color::Green),
        Mood::Bad if ::console::colors_enabled() => cell.fg(Color::Red),
        _ => cell,
    }
}

/// Text in the colour of `mood`, on a terminal that shows colours.
pub(super) fn painted(text: &str, mood: Mood) -> String {
    let style = match mood {
        Mood::Good => ::console::Style::new().green().bold(),
        Mood::Bad => ::console::Style::new().red().bold(),
        Mood::Neutral => ::console::Style::new(),
    };
    style.apply_to(text).to_string()
}

/// A progress bar on standard error, if that is a terminal. Without a total
/// it counts.
pub(super) fn progress(total: Option<u64>, what: &'static str) -> ProgressBar {
    let (bar, template) = match total {
        Some(total) => (
            ProgressBar::new(total),
            "{msg} [{bar:30}] {human_pos}/{human_len} {per_sec} {eta}",
        ),
        None => (ProgressBar::new_spinner(), "{spinner} {msg} {human_pos}"),
    };
    bar.with_style(ProgressStyle::with_template(template).expect("the template is well-formed"))
        .with_message(what)
}

/// A spinner on standard error, if that is a terminal, while something takes
/// its time.
pub(super) fn spinner(what: String) -> ProgressBar {
    let style =
        ProgressStyle::with_template("{spinner} {msg}").expect("the template is well-formed");
    let bar = ProgressBar::new_spinner()
        .with_style(style)
        .with_message(what);
    bar.enable_steady_tick(Duration::from_millis(100));
    bar
}

/// Seconds as people read them: `0.4s`, `3m 20s`, `-` for none.
pub(super) fn seconds(seconds: Option<f64>) -> String {
    match seconds {
        None => "-".to_owned(),
        Some(seconds) if seconds < 10.0 => format!("{seconds:.1}s"),
        Some(seconds) => humantime::format_duration(Duration::from_secs(
            Duration::from_secs_f64(seconds).as_secs(),
        ))
        .to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_that_a_terminal_obeys_is_left() {
        let nasty = "a\u{1b}[2J\u{7}\u{9b}31m\r\u{202e}\u{7f}\u{61c}\u{2028}\u{2029}b\nc";
        let plain = without_controls(nasty);
        assert_eq!(
            plain,
            "a\\u001b[2J\\u0007\\u009b31m\\u000d\\u202e\\u007f\\u061c\\u2028\\u2029b\nc"
        );
        assert_eq!(line("a\nb", 10), "a\\nb");
        assert_eq!(line("äöü", 2), "äö…");
    }

    #[test]
    fn json_stays_the_same_json() {
        let value = serde_json::json!({"text": "\u{1b}[31m \u{9b} \u{202e}"});
        let text = serde_json::to_string(&value).unwrap();
        let plain = without_controls(&text);
        assert!(!plain.chars().any(obeyed));
        assert_eq!(
            serde_json::from_str::<serde_json::Value>(&plain).unwrap(),
            value
        );
    }

    #[test]
    fn a_payload_is_laid_out_and_otherwise_untouched() {
        assert_eq!(
            pretty(r#"{"a":[1.50,{"b":"x,\"{y"}],"e":{ },"n":12345678901234567890123}"#),
            "{\n  \"a\": [\n    1.50,\n    {\n      \"b\": \"x,\\\"{y\"\n    }\n  ],\n  \"e\": {},\n  \"n\": 12345678901234567890123\n}"
        );
        assert_eq!(pretty(r#""a\\""#), r#""a\\""#);
        assert_eq!(pretty("{no\u{1b}"), "{no\\u001b");
    }

    #[test]
    fn a_deep_payload_is_not_a_large_one() {
        let deep = "[".repeat(100_000) + &"]".repeat(100_000);
        assert!(pretty(&deep).len() < 20_000_000);
    }
}
