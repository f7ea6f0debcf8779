//! How long a call with one answer may take: what its caller grants it, and no more than the limit.
//! Streams are exempt; they end when either side ends them.

use std::time::Duration;

use http::HeaderMap;

/// Most digits of a `grpc-timeout`: gRPC over HTTP/2, Requests.
const DIGITS_MAX: usize = 8;

/// Returns the time a call has.
pub(crate) fn granted(headers: &HeaderMap, most: Duration) -> Duration {
    let asked = headers.get("grpc-timeout").and_then(|value| {
        let text = value.to_str().ok()?;
        parse(text)
    });
    asked.map_or(most, |asked| asked.min(most))
}

fn parse(text: &str) -> Option<Duration> {
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.len() > DIGITS_MAX || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let number: u64 = digits.parse().ok()?;
    match unit {
        "H" => Some(Duration::from_secs(number * 3600)),
        "M" => Some(Duration::from_secs(number * 60)),
        "S" => Some(Duration::from_secs(number)),
        "m" => Some(Duration::from_millis(number)),
        "u" => Some(Duration::from_micros(number)),
        "n" => Some(Duration::from_nanos(number)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_caller_may_grant_less_and_not_more() {
        let most = Duration::from_secs(30);
        let granted = |text: &str| {
            let mut headers = HeaderMap::new();
            headers.insert("grpc-timeout", text.parse().unwrap());
            granted(&headers, most)
        };
        assert_eq!(granted("50m"), Duration::from_millis(50));
        assert_eq!(granted("2S"), Duration::from_secs(2));
        assert_eq!(granted("99999999u"), most);
        assert_eq!(granted("1H"), most);
        for bad in ["", "S", "1", "1s", "-1S", "999999999S", "1.5S", "1 S"] {
            assert_eq!(granted(bad), most, "{bad:?}");
        }
        assert_eq!(super::granted(&HeaderMap::new(), most), most);
    }
}
