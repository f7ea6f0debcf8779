//! Columns, times and bytes as people read them.

use std::fmt::Display;
use std::io::{self, Write};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use comfy_table::{Table, presets};

/// Prints a line; an error when nobody reads any more.
pub(crate) fn say(line: impl Display) -> io::Result<()> {
    writeln!(io::stdout(), "{line}")
}

/// Prints rows under their heads, each column as wide as it must be.
pub(crate) fn print(
    heads: impl IntoIterator<Item = impl Into<String>>,
    rows: &[impl AsRef<[String]>],
) -> io::Result<()> {
    writeln!(io::stdout(), "{}", columns(heads, rows))
}

fn columns(
    heads: impl IntoIterator<Item = impl Into<String>>,
    rows: &[impl AsRef<[String]>],
) -> String {
    let mut table = Table::new();
    table
        .load_preset(presets::NOTHING)
        .set_header(heads.into_iter().map(Into::into).collect::<Vec<String>>());
    for row in rows {
        table.add_row(row.as_ref());
    }
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    table.trim_fmt()
}

/// Returns bytes off the wire as text that does nothing to a terminal.
pub(crate) fn text(bytes: &[u8]) -> String {
    let lossy = String::from_utf8_lossy(bytes);
    let shown = |c: char| match c.is_control() {
        true => c.escape_default().to_string(),
        false => c.to_string(),
    };
    lossy.chars().map(shown).collect()
}

/// Returns the time of day of nanoseconds since 1970, in UTC.
pub(crate) fn time_of_day(nanos: u64) -> String {
    let millis = nanos / 1_000_000;
    let seconds = millis / 1000;
    let (hour, minute, second) = (seconds / 3600 % 24, seconds / 60 % 60, seconds % 60);
    format!("{hour:02}:{minute:02}:{second:02}.{:03}", millis % 1000)
}

/// Returns how long ago something was; "-" for never.
pub(crate) fn ago(at: Option<prost_types::Timestamp>) -> String {
    let Some(at) = at else {
        return "-".to_owned();
    };
    let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH);
    let now = since_1970.unwrap_or_default();
    let at = Duration::new(
        u64::try_from(at.seconds).unwrap_or_default(),
        u32::try_from(at.nanos).unwrap_or_default(),
    );
    span(now.saturating_sub(at))
}

/// Returns a duration as it came; "-" for none.
pub(crate) fn took(duration: Option<prost_types::Duration>) -> String {
    let duration = duration.and_then(|duration| Duration::try_from(duration).ok());
    duration.map_or_else(|| "-".to_owned(), span)
}

/// Returns a duration in its two greatest units.
fn span(duration: Duration) -> String {
    let seconds = duration.as_secs();
    match seconds {
        0 => format!("{:.1}ms", duration.as_secs_f64() * 1000.0),
        1..=9 => format!("{:.1}s", duration.as_secs_f64()),
        10..=59 => format!("{seconds}s"),
        60..=3599 => format!("{}m{:02}s", seconds / 60, seconds % 60),
        3600..=86_399 => format!("{}h{:02}m", seconds / 3600, seconds / 60 % 60),
        _ => format!("{}d{:02}h", seconds / 86_400, seconds / 3600 % 24),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let row = |a: &str, b: &str| [a.to_owned(), b.to_owned()];
        let text = columns(["NODE", "X"], &[row("a", "long"), row("abcdef", "")]);
        assert_eq!(text, "NODE    X\na       long\nabcdef");
    }

    #[test]
    fn bytes_do_nothing_to_a_terminal() {
        assert_eq!(text(b"a\x1b[2J\r\n\xff"), "a\\u{1b}[2J\\r\\n\u{fffd}");
        assert_eq!(text("ü".as_bytes()), "ü");
    }

    #[test]
    fn times_are_short() {
        let spans = [0, 1500, 12_000, 61_000, 7_260_000, 90_000_000]
            .map(|millis| span(Duration::from_millis(millis)));
        assert_eq!(spans, ["0.0ms", "1.5s", "12s", "1m01s", "2h01m", "1d01h"]);
        assert_eq!(time_of_day(86_399_999_000_000), "23:59:59.999");
    }
}
