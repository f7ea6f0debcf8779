//! Refusals as they are stored and sent: so many, so long, and a word about the rest. What is wrong with a
//! value can be many times as long as the value.

use control::view::Refusal;

/// Most refusals that are told of one value or request.
pub(crate) const REFUSALS_MAX: usize = 20;
/// Longest text in one of them, in bytes.
pub(crate) const TEXT_BYTES_MAX: usize = 256;

/// Keeps the first refusals, and says how many more there are.
pub(crate) fn bounded(refusals: Vec<Refusal>) -> Vec<Refusal> {
    let all = refusals.len();
    let mut first: Vec<_> = refusals.into_iter().take(REFUSALS_MAX).collect();
    for refusal in &mut first {
        for text in [
            &mut refusal.resource,
            &mut refusal.field,
            &mut refusal.reason,
        ] {
            clip(text, TEXT_BYTES_MAX);
        }
    }
    if let Some(last) = first.last().filter(|_| all > REFUSALS_MAX) {
        first.push(Refusal {
            resource: last.resource.clone(),
            field: String::new(),
            reason: more(all - REFUSALS_MAX),
        });
    }
    first
}

/// Says how many are not told.
pub(crate) fn more(count: usize) -> String {
    format!("and {count} more")
}

/// Cuts a text to so many bytes, and shows that it was cut.
pub(crate) fn clip(text: &mut String, bytes_max: usize) {
    const CUT: &str = "...";
    if text.len() > bytes_max {
        text.truncate(text.floor_char_boundary(bytes_max - CUT.len()));
        text.push_str(CUT);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusals(count: usize, reason: &str) -> Vec<Refusal> {
        let refusal = |i| Refusal {
            resource: "members/a".to_owned(),
            field: format!("sip[{i}]"),
            reason: reason.to_owned(),
        };
        (0..count).map(refusal).collect()
    }

    #[test]
    fn few_are_told_as_they_are() {
        let few = refusals(REFUSALS_MAX, "wrong");
        assert_eq!(bounded(few.clone()), few);
    }

    #[test]
    fn of_many_it_is_said_how_many_more_there_are() {
        let told = bounded(refusals(2500, &"\u{e9}".repeat(1000)));
        assert_eq!(told.len(), REFUSALS_MAX + 1);
        assert_eq!(told[REFUSALS_MAX].reason, "and 2480 more");
        assert!(told[0].reason.len() <= TEXT_BYTES_MAX && told[0].reason.ends_with("..."));
    }
}
