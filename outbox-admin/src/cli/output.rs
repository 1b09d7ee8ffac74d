//! Output of commands: text for people or JSON for programs, to a terminal or a pipe. Stored text
//! is not trusted: its control characters are escaped before they reach a terminal.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::io::{self, IsTerminal, Write as _};
use std::time::Duration;

use comfy_table::{Cell, Color, ColumnConstraint, ContentArrangement, Table, Width, presets};
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;

use super::CommandError;

/// Format of a result.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Format {
    /// Tables and sentences, for people.
    #[default]
    Text,
    /// JSON with RFC 3339 times, for programs.
    Json,
}

/// Output option, which every command with a result has.
#[derive(Clone, Copy, Debug, clap::Args)]
pub(super) struct OutputOptions {
    /// Format of the result on standard output.
    #[arg(long, short, value_enum, default_value_t = Format::Text)]
    output: Format,
}

impl OutputOptions {
    pub(super) fn is_json(self) -> bool {
        self.output == Format::Json
    }
}

/// Writes `text` and a line feed to standard output.
pub(super) fn print(text: &str) -> Result<(), CommandError> {
    let mut stdout = io::stdout().lock();
    writeln!(stdout, "{text}")
        .and_then(|()| stdout.flush())
        .map_err(CommandError::Output)
}

/// Writes a JSON document, indented over several lines.
pub(super) fn print_json(value: &impl Serialize) -> Result<(), CommandError> {
    let text =
        serde_json::to_string_pretty(value).map_err(|error| CommandError::Output(error.into()))?;
    print(&escape_controls(&text))
}

/// Writes a JSON document on one line.
pub(super) fn print_json_line(value: &impl Serialize) -> Result<(), CommandError> {
    let text = serde_json::to_string(value).map_err(|error| CommandError::Output(error.into()))?;
    print(&escape_controls(&text))
}

/// Writes a notice, which is not part of the result, to standard error.
pub(super) fn print_notice(text: &str) {
    eprintln!("{}", escape_controls(text));
}

/// Returns `text` with every character that controls a terminal, except line feeds, escaped as in
/// JSON (`\u001b`). A JSON document keeps its value.
pub(super) fn escape_controls(text: &str) -> Cow<'_, str> {
    if !text.chars().any(|c| c != '\n' && is_terminal_control(c)) {
        return Cow::Borrowed(text);
    }
    let mut plain = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        if c != '\n' && is_terminal_control(c) {
            // None of them needs more than four hexadecimal digits.
            let _ = write!(plain, "\\u{:04x}", u32::from(c));
        } else {
            plain.push(c);
        }
    }
    Cow::Owned(plain)
}

/// Returns `text` as a single line of at most `length` characters, with line feeds escaped.
pub(super) fn single_line(text: &str, length: usize) -> String {
    let mut line = escape_controls(text).replace('\n', "\\n");
    if let Some((at, _)) = line.char_indices().nth(length) {
        line.truncate(at);
        line.push('…');
    }
    line
}

/// Returns `true` for control characters (C0, C1 and DEL), for the Unicode line separators, and
/// for the characters that change the direction of text, which make a text read as another one.
fn is_terminal_control(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// Returns a JSON document indented over several lines, with its numbers, keys and strings
/// unchanged. A text that is not JSON is returned as it is.
pub(super) fn indent_json(payload: &str) -> String {
    // Deeper nesting is not indented further: a payload may have 100,000
    // levels.
    const MAX_INDENT: usize = 32;
    if serde_json::from_str::<&serde_json::value::RawValue>(payload).is_err() {
        return escape_controls(payload).into_owned();
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
    escape_controls(&out).into_owned()
}

/// Returns a table of plain columns. Cells are never broken, however narrow the terminal is, so
/// that an id can be copied from it.
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

/// Returns a table like [`table`] whose last column holds prose. On a terminal that column is as
/// wide as the other columns permit, but at least 16 characters.
pub(super) fn table_with_wide_column(headers: &[&str]) -> Table {
    const MIN_WIDTH: Width = Width::Fixed(16);
    let mut table = table(headers);
    if let Some(text) = table.column_iter_mut().next_back() {
        text.set_constraint(ColumnConstraint::LowerBoundary(MIN_WIDTH));
    }
    if io::stdout().is_terminal() {
        table.set_content_arrangement(ContentArrangement::Dynamic);
    }
    table
}

/// Returns the text of a table without trailing blanks.
pub(super) fn render(table: &Table) -> String {
    table.trim_fmt()
}

/// Meaning of a text, which selects its colour.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tone {
    Good,
    Bad,
    Neutral,
}

/// Returns a cell in the colour of `tone` if the terminal shows colours.
pub(super) fn cell(text: &str, tone: Tone) -> Cell {
    let cell = Cell::new(text);
    match tone {
        Tone::Good if ::console::colors_enabled() => cell.fg(Color::Green),
        Tone::Bad if ::console::colors_enabled() => cell.fg(Color::Red),
        _ => cell,
    }
}

/// Returns text in the colour of `tone` if the terminal shows colours.
pub(super) fn colored(text: &str, tone: Tone) -> String {
    let style = match tone {
        Tone::Good => ::console::Style::new().green().bold(),
        Tone::Bad => ::console::Style::new().red().bold(),
        Tone::Neutral => ::console::Style::new(),
    };
    style.apply_to(text).to_string()
}

/// Returns a progress bar on standard error, which is visible if that is a terminal. Without a
/// total the bar is a counter.
pub(super) fn progress_bar(total: Option<u64>, label: &'static str) -> ProgressBar {
    let (bar, template) = match total {
        Some(total) => (
            ProgressBar::new(total),
            "{msg} [{bar:30}] {human_pos}/{human_len} {per_sec} {eta}",
        ),
        None => (ProgressBar::new_spinner(), "{spinner} {msg} {human_pos}"),
    };
    bar.with_style(ProgressStyle::with_template(template).expect("the template is well-formed"))
        .with_message(label)
}

/// Returns a spinner on standard error, which is visible if that is a terminal.
pub(super) fn spinner(label: String) -> ProgressBar {
    let style =
        ProgressStyle::with_template("{spinner} {msg}").expect("the template is well-formed");
    let bar = ProgressBar::new_spinner()
        .with_style(style)
        .with_message(label);
    bar.enable_steady_tick(Duration::from_millis(100));
    bar
}

/// Formats seconds for people: `0.4s`, `3m 20s`, `-` for `None`.
pub(super) fn format_seconds(seconds: Option<f64>) -> String {
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
    fn terminal_control_characters_are_escaped() {
        let nasty = "a\u{1b}[2J\u{7}\u{9b}31m\r\u{202e}\u{7f}\u{61c}\u{2028}\u{2029}b\nc";
        let plain = escape_controls(nasty);
        assert_eq!(
            plain,
            "a\\u001b[2J\\u0007\\u009b31m\\u000d\\u202e\\u007f\\u061c\\u2028\\u2029b\nc"
        );
        assert_eq!(single_line("a\nb", 10), "a\\nb");
        assert_eq!(single_line("äöü", 2), "äö…");
    }

    #[test]
    fn escaping_does_not_change_the_value_of_json() {
        let value = serde_json::json!({"text": "\u{1b}[31m \u{9b} \u{202e}"});
        let text = serde_json::to_string(&value).unwrap();
        let plain = escape_controls(&text);
        assert!(!plain.chars().any(is_terminal_control));
        assert_eq!(
            serde_json::from_str::<serde_json::Value>(&plain).unwrap(),
            value
        );
    }

    #[test]
    fn a_payload_is_indented_and_otherwise_unchanged() {
        assert_eq!(
            indent_json(r#"{"a":[1.50,{"b":"x,\"{y"}],"e":{ },"n":12345678901234567890123}"#),
            "{\n  \"a\": [\n    1.50,\n    {\n      \"b\": \"x,\\\"{y\"\n    }\n  ],\n  \"e\": {},\n  \"n\": 12345678901234567890123\n}"
        );
        assert_eq!(indent_json(r#""a\\""#), r#""a\\""#);
        assert_eq!(indent_json("{no\u{1b}"), "{no\\u001b");
    }

    #[test]
    fn indentation_of_a_deep_payload_is_bounded() {
        let deep = "[".repeat(100_000) + &"]".repeat(100_000);
        assert!(indent_json(&deep).len() < 20_000_000);
    }
}
