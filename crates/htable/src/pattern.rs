//! Which entries a deletion means: regular expression or prefix, of the key or of the value.

use std::fmt::Write;

use bytes::Bytes;
use regex::bytes::{Regex, RegexBuilder};

use crate::Value;

/// The longest operand of a pattern, in bytes.
pub const PATTERN_BYTES_MAX: usize = 1024;

/// How much memory a compiled expression may take, in bytes, and its cache while matching.
const COMPILED_BYTES_MAX: usize = 256 * 1024;

/// How deep groups may nest.
const NESTING_MAX: u32 = 32;

/// What a pattern is compared with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum By {
    /// The key.
    Key,
    /// The value, if it is text; numbers match nothing.
    Value,
}

/// A condition on keys or values.
#[derive(Clone, Debug)]
pub struct Pattern(Kind);

#[derive(Clone, Debug)]
enum Kind {
    Regex(Regex),
    Prefix(Bytes),
}

/// Why an operand is no pattern.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum PatternError {
    /// The operand is longer than [`PATTERN_BYTES_MAX`].
    #[error("the pattern is longer than {PATTERN_BYTES_MAX} bytes")]
    TooLong,
    /// The expression cannot be read, or would take too much memory.
    #[error("the pattern is no regular expression")]
    Expression(#[from] regex::Error),
}

impl Pattern {
    /// Compiles a regular expression: case-insensitive, unanchored, `^` and `$` at every line.
    ///
    /// Kamailio reads POSIX extended expressions; this reads the syntax of the `regex` crate without
    /// Unicode. What differs: `\` inside brackets escapes, `[^a]` also matches a line feed, `&&`,
    /// `--` and `~~` inside brackets combine classes, `(?` introduces options, `\1` is refused, and a
    /// repetition with nothing before it is refused. Matching takes time linear in the text.
    ///
    /// # Errors
    ///
    /// The operand is too long, no expression, or compiles to more than 256 KiB.
    pub fn regex(operand: &[u8]) -> Result<Self, PatternError> {
        check_length(operand)?;
        let regex = RegexBuilder::new(&printable(operand))
            .unicode(false)
            .case_insensitive(true)
            .multi_line(true)
            .size_limit(COMPILED_BYTES_MAX)
            .dfa_size_limit(COMPILED_BYTES_MAX)
            .nest_limit(NESTING_MAX)
            .build()?;
        Ok(Self(Kind::Regex(regex)))
    }

    /// Makes a prefix, compared byte for byte.
    ///
    /// # Errors
    ///
    /// The operand is too long.
    pub fn prefix(operand: &[u8]) -> Result<Self, PatternError> {
        check_length(operand)?;
        Ok(Self(Kind::Prefix(Bytes::copy_from_slice(operand))))
    }

    /// Tells whether an entry matches: its key, or its value if that is text.
    #[must_use]
    pub fn matches(&self, by: By, key: &[u8], value: &Value) -> bool {
        match (by, value) {
            (By::Key, _) => self.is_match(key),
            (By::Value, Value::Text(text)) => self.is_match(text),
            (By::Value, Value::Int(_)) => false,
        }
    }

    fn is_match(&self, text: &[u8]) -> bool {
        match &self.0 {
            Kind::Regex(regex) => regex.is_match(text),
            Kind::Prefix(prefix) => text.starts_with(prefix),
        }
    }
}

fn check_length(operand: &[u8]) -> Result<(), PatternError> {
    if operand.len() > PATTERN_BYTES_MAX {
        return Err(PatternError::TooLong);
    }
    Ok(())
}

/// Writes bytes that are not ASCII as `\xHH`: each is one character, as in the C locale.
fn printable(operand: &[u8]) -> String {
    let mut text = String::with_capacity(operand.len());
    for &byte in operand {
        if byte.is_ascii() {
            text.push(char::from(byte));
        } else {
            write!(text, "\\x{byte:02X}").expect("a string takes every text");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(value: &'static [u8]) -> Value {
        Value::Text(Bytes::from_static(value))
    }

    fn key_matches(expression: &[u8], key: &[u8]) -> bool {
        let pattern = Pattern::regex(expression).expect("an expression");
        pattern.matches(By::Key, key, &Value::Int(0))
    }

    #[test]
    fn expressions_ignore_case_and_match_anywhere() {
        assert!(key_matches(b"LPH", b"alpha"));
        assert!(key_matches(b"^al.*", b"ALPHA"));
        assert!(!key_matches(b"^lph", b"alpha"));
        assert!(key_matches(b"[[:digit:]]{2}$", b"key42"));
    }

    #[test]
    fn expressions_treat_lines_one_by_one() {
        assert!(key_matches(b"^b$", b"a\nb\nc"));
        assert!(!key_matches(b"a.b", b"a\nb"));
    }

    #[test]
    fn bytes_beyond_ascii_are_characters() {
        assert!(key_matches(b"^\xe9.\x6c$", b"\xe9\xe8l"));
        assert!(!key_matches(b"^\xe9.\x6c$", b"\xe8\xe8l"));
    }

    #[test]
    fn a_prefix_keeps_case() {
        let pattern = Pattern::prefix(b"ne").expect("a prefix");
        assert!(pattern.matches(By::Key, b"neg", &Value::Int(0)));
        assert!(!pattern.matches(By::Key, b"Neg", &Value::Int(0)));
        assert!(!pattern.matches(By::Key, b"one", &Value::Int(0)));
    }

    #[test]
    fn numbers_never_match_by_value() {
        let any = Pattern::regex(b"").expect("an expression");
        assert!(any.matches(By::Value, b"k", &text(b"7")));
        assert!(!any.matches(By::Value, b"k", &Value::Int(7)));
    }

    #[test]
    fn bad_expressions_are_refused() {
        assert!(Pattern::regex(b"(").is_err());
        assert!(Pattern::regex(b"(a{1000}){1000}").is_err());
        assert!(Pattern::regex(&[b'('; 200]).is_err());
        assert_eq!(
            Pattern::regex(&[b'a'; PATTERN_BYTES_MAX + 1]).err(),
            Some(PatternError::TooLong)
        );
        assert_eq!(
            Pattern::prefix(&[b'a'; PATTERN_BYTES_MAX + 1]).err(),
            Some(PatternError::TooLong)
        );
    }
}
